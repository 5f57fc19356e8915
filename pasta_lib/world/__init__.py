"""The miniature world: scenes, their captions and pictures, and the eye that judges pictures."""
