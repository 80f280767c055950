"""Hash tables whose nodes lie in what they index. Nothing here is visible to Python."""
