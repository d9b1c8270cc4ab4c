//! What a picture costs in the GAU network.

use super::Gau;
use crate::model::Cost;

impl Gau {
    /// Cost of one `height` × `width` picture.
    pub fn cost(&self, height: i64, width: i64) -> Cost {
        let mut cost = Cost::default();
        let patches = height * width / (self.patch * self.patch);
        cost.add_linear(&self.patch_in, patches);
        for layer in &self.layers {
            let [in_proj, out_proj] = layer.weights();
            cost.add_linear(in_proj, patches);
            cost.add_linear(out_proj, patches);
            let ((units, key), base) = (layer.widths(), out_proj.size()[0]);
            // Scores, and the sums of values that they weigh.
            cost.forward_flops += (2 * patches * patches * (key + units)) as u64;
            // Input and output of the norm, input and output of the swish, u times the mixed values and
            // both; queries and keys: four products and two sums each, of which the rotations keep their
            // inputs; scores.
            let kept = 2 * base + 2 * (2 * units + key) + 2 * units + 6 * key + patches;
            cost.activations += (patches * kept) as u64;
        }
        cost.add_linear(&self.patch_out, patches);
        cost
    }
}
