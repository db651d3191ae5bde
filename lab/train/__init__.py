"""The recipe of the bundled family: world, tokenizer, models, export, evaluation."""
