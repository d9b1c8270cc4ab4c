//! cuDNN's search for the fastest algorithm of each convolution, where it pays.

use crate::native;

/// Evaluations of a network on one shape from which the search pays. It takes a few seconds for a network, by what is
/// known of cuDNN; not measured here. A tenth saved of an evaluation of 0.1 s is that much after some hundred of them.
const WORTH_A_SEARCH: usize = 200;

/// While it lives, cuDNN times its algorithms at the first convolution of each shape, and keeps the fastest for that
/// shape; or it does not, and takes the one that it expects to be the fastest. For the whole process; nothing on a CPU.
/// What was found for a shape stays in use.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct ConvolutionSearch {
    before: bool,
}

impl ConvolutionSearch {
    /// For work that goes on for long with the same shapes, as training does. None where only deterministic algorithms
    /// are allowed.
    pub fn begin() -> ConvolutionSearch {
        ConvolutionSearch::set(true)
    }

    /// For `evaluations` of a network on one shape: with few, each new number of images and each size would pay for a
    /// search and not get it back.
    pub fn if_worth_it(evaluations: usize) -> ConvolutionSearch {
        ConvolutionSearch::set(evaluations >= WORTH_A_SEARCH)
    }

    fn set(on: bool) -> ConvolutionSearch {
        ConvolutionSearch {
            before: native::set_cudnn_search(on),
        }
    }
}

impl Drop for ConvolutionSearch {
    fn drop(&mut self) {
        native::set_cudnn_search(self.before);
    }
}
