//! (latents)
