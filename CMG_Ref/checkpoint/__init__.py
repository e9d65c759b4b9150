"""The one reader of checkpoints: parameters, sizes and normalisation, in every form that users have them."""
