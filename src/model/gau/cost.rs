//! Cost of an image in the GAU network.

use super::Gau;
use crate::model::Cost;

impl Gau {
    /// Cost of one `height` × `width` image.
    pub fn cost(&self, height: i64, width: i64) -> Cost {
        let mut cost = Cost::default();
        let patches = height * width / (self.patch * self.patch);
        cost.add_linear(&self.patch_in, patches);
        cost.keep(patches * self.patch_in.size()[1]);
        for layer in &self.layers {
            let [in_proj, out_proj] = layer.weights();
            cost.add_linear(in_proj, patches);
            cost.add_linear(out_proj, patches);
            let ((units, key), base) = (layer.widths(), out_proj.size()[0]);
            // Scores, and the values weighted by them.
            cost.forward_flops += (2 * patches * patches * (key + units)) as u64;
            // The norm's input, the normalised and the scaled map; the dropout mask.
            cost.keep_maps(if layer.drops() { 4 } else { 3 }, patches * base);
            // Input and output of the swish; u, v and z are views of the output.
            cost.keep_maps(2, patches * (2 * units + key));
            // The mixed values, and u times them.
            cost.keep_maps(2, patches * units);
            // Queries and keys; the rotations keep only sines and cosines.
            cost.keep_maps(2, patches * key);
            cost.keep(patches * patches);
        }
        cost.add_linear(&self.patch_out, patches);
        cost.keep_maps(3, patches * self.patch_out.size()[1]);
        cost
    }
}
