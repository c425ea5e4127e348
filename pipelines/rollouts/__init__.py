"""The stage `rollouts`: an engine samples G completions of each prompt."""
