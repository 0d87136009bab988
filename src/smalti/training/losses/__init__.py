"""What objectives are composed of: distances of pictures, discriminators at work, alignment."""
