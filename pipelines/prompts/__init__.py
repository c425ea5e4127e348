"""The stage `prompts`: rows of a file, a folder or a data set become tasks."""
