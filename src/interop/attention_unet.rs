//! What the code bases with Ho et al.'s U-Net share (openai, pesser, w86763777, and diffusers in part).
//!
//! - `shapes`: the network that keys and shapes describe; `names`: how a code base names its modules
//! - `layout`: both at once, one table from their tensors to ours
//! - `hints`: what the file leaves open, from the user's hints

pub(super) mod hints;
pub(super) mod layout;
pub(super) mod names;
pub(super) mod shapes;
