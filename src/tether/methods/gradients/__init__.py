"""Methods that change how the loss turns into steps: losses, gradients, their agreement."""
