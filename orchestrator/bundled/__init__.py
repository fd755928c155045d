"""The small default models: how they are built, trained and evaluated, and where they lie."""
