"""Finding wrong labels in one's own data, and acting on them."""
