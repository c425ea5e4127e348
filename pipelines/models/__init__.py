"""Model folders: their identity, their tokenizers, and LoRA adapters, which count as models."""
