//! A short program that samples a class-conditional folder with diffusers: its pipelines pass no class to the network.

use crate::config::{DiffusionConfig, ModelConfig};

/// Its name in the folder.
pub(super) const NAME: &str = "sample_classes.py";

/// The name and the text of the program, for a network with classes. With a class that means "no class" it has guidance.
pub(crate) fn class_script(
    model: &ModelConfig,
    diffusion: &DiffusionConfig,
) -> Option<(&'static str, String)> {
    let classes = model.classes()?;
    let [channels, height, width] = model.chw();
    let (imports, size) = (
        "from pathlib import Path\n\nimport torch\nfrom diffusers import DDPMScheduler, UNet2DModel\nfrom diffusers.utils import make_image_grid, pt_to_pil",
        format!("{channels}, {height}, {width}"),
    );
    let steps = diffusion.timesteps;
    let body = match model.null_class() {
        None => "        out = unet(x, t, class_labels=classes).sample\n".to_owned(),
        Some(null) => format!(
            "        both = torch.cat([classes, torch.full_like(classes, {null})])  # {null}: no class\n        \
             out, without = unet(torch.cat([x, x]), t, class_labels=both).sample.chunk(2)\n        \
             out[:, :{channels}] += (guidance - 1) * (out - without)[:, :{channels}]\n"
        ),
    };
    let guidance = match model.null_class() {
        None => String::new(),
        Some(_) => "guidance = 2.0  # 1: none\n".to_owned(),
    };
    let text = format!(
        "# Images of given classes, with diffusers: DDPMPipeline passes no class to the network.\n{imports}\n\n\
         folder = Path(__file__).parent\nunet = UNet2DModel.from_pretrained(folder, subfolder=\"unet\")\n\
         scheduler = DDPMScheduler.from_pretrained(folder, subfolder=\"scheduler\")\n\
         scheduler.set_timesteps({steps})\nclasses = torch.arange(8) % {classes}\n{guidance}\
         x = torch.randn(len(classes), {size})\nwith torch.no_grad():\n    for t in scheduler.timesteps:\n{body}        \
         x = scheduler.step(out, t, x).prev_sample\nmake_image_grid(pt_to_pil(x), 1, len(x)).save(\"classes.png\")\n"
    );
    Some((NAME, text))
}
