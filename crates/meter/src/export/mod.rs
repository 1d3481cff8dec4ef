//! The same figures as other tools read them.

pub mod codecarbon;
pub mod model_card;
