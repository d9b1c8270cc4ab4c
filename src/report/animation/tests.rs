use std::fs::File;
use std::io::{BufReader, Cursor};

use image::AnimationDecoder;
use image::codecs::gif::GifDecoder;
use ndarray::array;

use super::*;

const H: usize = 5;
const W: usize = 7;

/// Frame `number`: at most 35 colours, different in every value, column and row.
fn frame(number: usize, channels: usize) -> Array3<u8> {
    Array3::from_shape_fn((H, W, channels), |(y, x, c)| {
        (((c * H + y) * W + x) * 2 + number * 11) as u8
    })
}

fn frames(channels: usize) -> Vec<Array3<u8>> {
    (0..4).map(|number| frame(number, channels)).collect()
}

struct Read {
    images: Vec<Array3<u8>>,
    millis: Vec<u32>,
}

/// Frames of an APNG that plays for ever, `[H, W, C]`.
fn read_apng(path: &Path) -> Read {
    let decoder = png::Decoder::new(BufReader::new(File::open(path).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let control = reader.info().animation_control.unwrap();
    assert_eq!(control.num_plays, 0);
    let mut read = Read {
        images: vec![],
        millis: vec![],
    };
    for _ in 0..control.num_frames {
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let shown = reader.next_frame(&mut bytes).unwrap();
        let (h, w) = (shown.height as usize, shown.width as usize);
        let shape = (h, w, bytes.len() / (h * w));
        (read.images).push(Array3::from_shape_vec(shape, bytes).unwrap());
        let delay = reader.info().frame_control.unwrap();
        read.millis
            .push(u32::from(delay.delay_num) * 1000 / u32::from(delay.delay_den));
    }
    assert!(reader.next_frame(&mut [0; 1000]).is_err());
    read
}

/// Frames of a GIF, `[H, W, 3]`; all opaque.
fn read_gif(path: &Path) -> Read {
    let bytes = std::fs::read(path).unwrap();
    // The application block with its loop count, 0 for ever.
    let forever = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0";
    assert!(bytes.windows(forever.len()).any(|part| part == forever));
    let decoder = GifDecoder::new(Cursor::new(bytes)).unwrap();
    let mut read = Read {
        images: vec![],
        millis: vec![],
    };
    for shown in decoder.into_frames() {
        let shown = shown.unwrap();
        read.millis.push(shown.delay().numer_denom_ms().0);
        let (w, h) = shown.buffer().dimensions();
        let shape = (h as usize, w as usize, 4);
        let rgba = Array3::from_shape_vec(shape, shown.into_buffer().into_raw()).unwrap();
        assert!(rgba.slice(s![.., .., 3]).iter().all(|alpha| *alpha == 255));
        read.images.push(rgba.slice(s![.., .., ..3]).to_owned());
    }
    read
}

fn write(
    name: &str,
    frames: &[Array3<u8>],
    millis: (u32, u32),
) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    write_animation(&path, frames, millis.0, millis.1).unwrap();
    (dir, path)
}

#[test]
fn an_apng_is_exact_and_lasts_as_asked() {
    for (name, channels) in [("a.png", 3), ("a.APNG", 1)] {
        let (_dir, path) = write(name, &frames(channels), (47, 2013));
        let read = read_apng(&path);
        assert_eq!(read.images, frames(channels));
        assert_eq!(read.millis, [47, 47, 47, 2013]);
    }
}

#[test]
fn a_gif_of_few_colours_is_exact_and_lasts_as_asked() {
    for channels in [1, 3] {
        let (_dir, path) = write("a.gif", &frames(channels), (47, 2013));
        let read = read_gif(&path);
        assert_eq!(read.images.len(), 4);
        for (read, wanted) in read.images.iter().zip(frames(channels)) {
            assert_eq!(*read, wanted.broadcast((H, W, 3)).unwrap());
        }
        assert_eq!(read.millis, [50, 50, 50, 2010]);
    }
}

#[test]
fn a_gif_of_many_colours_is_near() {
    // 4096 colours that fill a plane of the cube.
    let colour = |(y, x, c): (usize, usize, usize)| [4 * x, 4 * y, 2 * x + 2 * y][c] as u8;
    let image = Array3::from_shape_fn((64, 64, 3), colour);
    let (_dir, path) = write("a.gif", std::slice::from_ref(&image), (100, 100));
    let read = read_gif(&path).images.remove(0);
    let apart = (read.iter().zip(&image)).map(|(a, b)| f64::from(a.abs_diff(*b)));
    let mean = apart.clone().sum::<f64>() / image.len() as f64;
    let most = apart.fold(0.0, f64::max);
    // Squares of 4 by 4 pixels, the best there can be, give a mean of 3.5 and at most 6. The encoder seeks
    // its palette step by step: 5.9 and 28 today, with room for another version of it.
    assert!(mean < 8.0 && most < 40.0, "mean {mean}, most {most}");
}

#[test]
fn a_single_frame_lasts_as_the_last_does() {
    let one = [frame(0, 3)];
    let (_dir, path) = write("a.png", &one, (100, 300));
    let read = read_apng(&path);
    assert_eq!(read.images, one);
    assert_eq!(read.millis, [300]);
    let (_dir, path) = write("a.gif", &one, (100, 300));
    assert_eq!(read_gif(&path).millis, [300]);
}

#[test]
fn what_browsers_would_slow_down_is_raised() {
    let (_dir, path) = write("a.gif", &frames(3), (0, 19));
    assert_eq!(read_gif(&path).millis, [20; 4]);
    let (_dir, path) = write("a.png", &frames(3), (1, 65_535));
    assert_eq!(read_apng(&path).millis, [20, 20, 20, 65_535]);
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let other_size = frame(0, 3).slice(s![.., ..6, ..]).to_owned();
    for (name, frames, millis, reason) in [
        (
            "a.mp4",
            frames(3),
            100,
            "ends in .png or .apng (APNG) or .gif",
        ),
        ("a", frames(3), 100, "ends in .png"),
        ("a.gif", vec![], 100, "no frames"),
        (
            "a.gif",
            vec![frame(0, 3), other_size],
            100,
            "[5, 6, 3], want the first one's shape, [5, 7, 3]",
        ),
        ("a.png", vec![frame(0, 2)], 100, "[5, 7, 2], want [H, W, C]"),
        ("a.gif", vec![Array3::zeros((0, 7, 3))], 100, "[0, 7, 3]"),
        ("a.gif", frames(3), 65_536, "65536 ms, want at most 65535"),
    ] {
        let path = dir.path().join(name);
        let error = write_animation(&path, &frames, millis, 100).unwrap_err();
        let message = format!("{error:#}");
        assert!(
            message.contains(name) && message.contains(reason),
            "{message}"
        );
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(format_of(Path::new("a.mp4")).is_err());
    assert!(format_of(Path::new("a.GIF")).is_ok());
}

#[test]
fn a_strip_lies_side_by_side() {
    let first = array![[[1], [2]], [[3], [4]]];
    let second = array![[[5]], [[6]]];
    assert_eq!(
        strip(&[first, second]),
        array![[[1], [2], [5]], [[3], [4], [6]]]
    );
}

#[test]
fn frames_hold_the_first_and_the_last_step_and_are_even() {
    assert_eq!(frame_steps(1000, 5), [0, 250, 500, 749, 999]);
    assert_eq!(frame_steps(10, 3), [0, 5, 9]);
    assert_eq!(frame_steps(3, 100), [0, 1, 2]);
    assert_eq!(frame_steps(7, 1), [0, 6]);
    assert_eq!(frame_steps(7, 0), [0, 6]);
    assert_eq!(frame_steps(1, 5), [0]);
    assert_eq!(frame_steps(0, 5), [0; 0]);
    for steps in 2..60 {
        for frames in 2..70 {
            let chosen = frame_steps(steps, frames);
            assert_eq!(chosen.len(), frames.min(steps));
            assert_eq!((chosen[0], chosen[chosen.len() - 1]), (0, steps - 1));
            let gaps: Vec<usize> = chosen.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
            assert!(*least > 0 && most - least <= 1, "{steps} {frames} {gaps:?}");
        }
    }
}
