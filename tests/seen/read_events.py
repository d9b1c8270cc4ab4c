"""Prints what TensorBoard reads from a run's folder, as JSON; the tests compare it with the run's own files.

usage: read_events.py RUN           all values, as its reader keeps them
       read_events.py --records FILE   how many records of a file are whole, and what is wrong with the next
"""

import hashlib
import io
import json
import sys
from pathlib import Path

from PIL import Image
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
from tensorboard.compat import tf
from tensorboard.compat.tensorflow_stub import errors
from tensorboard.util import tensor_util

EVERYTHING = dict.fromkeys(("scalars", "images", "histograms", "tensors", "compressedHistograms"), 0)


def pixels(image: Image.Image) -> str:
    return f"{image.mode} {image.size} {hashlib.sha256(image.tobytes()).hexdigest()}"


def read_run(run: Path) -> dict:
    read = event_accumulator.EventAccumulator(str(run), size_guidance=EVERYTHING, purge_orphaned_data=True).Reload()
    tags = read.Tags()
    images = {}
    for tag in tags["images"]:
        images[tag] = []
        for event in read.Images(tag):
            shown = Image.open(io.BytesIO(event.encoded_image_string))
            file = run / "samples" / f"step-{event.step:08}-{tag.split('/')[1]}.png"
            same = pixels(shown) == pixels(Image.open(file)) and shown.size == (event.width, event.height)
            images[tag].append([event.step, same])
    # What the pages of TensorBoard show, each its own kind.
    plugins = plugin_event_accumulator.EventAccumulator(str(run)).Reload()
    return {
        "scalars": {tag: [[e.step, e.value] for e in read.Scalars(tag)] for tag in tags["scalars"]},
        "images": images,
        "histograms": {
            tag: [
                [e.step, list(e.histogram_value.bucket_limit), list(e.histogram_value.bucket)]
                for e in read.Histograms(tag)
            ]
            for tag in tags["histograms"]
        },
        "texts": {
            tag: [[e.step, tensor_util.make_ndarray(e.tensor_proto).item().decode()] for e in read.Tensors(tag)]
            for tag in tags["tensors"]
        },
        "plugins": {
            name: sorted(plugins.PluginTagToContent(name)) if name in plugins._plugin_to_tag_to_content else []
            for name in ("scalars", "images", "histograms", "text")
        },
    }


def read_records(path: str) -> dict:
    reader = tf.pywrap_tensorflow.PyRecordReader_New(path.encode(), 0, b"", None)
    count = 0
    while True:
        try:
            reader.GetNext()
        except errors.OutOfRangeError:
            return {"records": count, "wrong": None}
        except errors.DataLossError as error:
            return {"records": count, "wrong": error.message}
        count += 1


if __name__ == "__main__":
    found = read_records(sys.argv[2]) if sys.argv[1] == "--records" else read_run(Path(sys.argv[1]))
    print(json.dumps(found))
