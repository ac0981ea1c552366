//! (weights)
