//! What the code bases with Ho et al.'s U-Net share (openai, pesser, w86763777, and diffusers in part).
//!
//! - `shapes`: the network that keys and shapes describe; `modules`: how a code base names the parts of one
//! - `plan`: both at once, from their tensors to ours
//! - `answers`: what the file does not say, asked of the user's hints

pub(super) mod answers;
pub(super) mod modules;
pub(super) mod plan;
pub(super) mod shapes;
