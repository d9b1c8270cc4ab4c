use std::fs::File;
use std::io::{BufReader, Cursor};

use image::AnimationDecoder;
use image::codecs::gif::GifDecoder;

use super::*;

const H: i64 = 5;
const W: i64 = 7;

/// Frame `number`: at most 35 colours, different in every value, column and row.
fn frame(number: i64, channels: i64) -> Tensor {
    let values = Tensor::arange(channels * H * W, (Kind::Int64, Device::Cpu));
    (values * 2 + number * 11)
        .remainder(256)
        .to_kind(Kind::Uint8)
        .view([channels, H, W])
}

fn frames(channels: i64) -> Vec<Tensor> {
    (0..4).map(|number| frame(number, channels)).collect()
}

struct Read {
    pictures: Vec<Tensor>,
    millis: Vec<u32>,
}

/// Frames of an APNG that plays for ever, `[C, H, W]`.
fn read_apng(path: &Path) -> Read {
    let decoder = png::Decoder::new(BufReader::new(File::open(path).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let control = reader.info().animation_control.unwrap();
    assert_eq!(control.num_plays, 0);
    let mut read = Read {
        pictures: vec![],
        millis: vec![],
    };
    for _ in 0..control.num_frames {
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let shown = reader.next_frame(&mut bytes).unwrap();
        let (h, w) = (i64::from(shown.height), i64::from(shown.width));
        let picture = Tensor::from_slice(&bytes).view([h, w, -1]);
        read.pictures.push(picture.permute([2, 0, 1]));
        let delay = reader.info().frame_control.unwrap();
        read.millis
            .push(u32::from(delay.delay_num) * 1000 / u32::from(delay.delay_den));
    }
    assert!(reader.next_frame(&mut [0; 1000]).is_err());
    read
}

/// Frames of a GIF, `[3, H, W]`; all opaque.
fn read_gif(path: &Path) -> Read {
    let bytes = std::fs::read(path).unwrap();
    // The application block with its loop count, 0 for ever.
    let forever = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0";
    assert!(bytes.windows(forever.len()).any(|part| part == forever));
    let decoder = GifDecoder::new(Cursor::new(bytes)).unwrap();
    let mut read = Read {
        pictures: vec![],
        millis: vec![],
    };
    for shown in decoder.into_frames() {
        let shown = shown.unwrap();
        read.millis.push(shown.delay().numer_denom_ms().0);
        let (w, h) = shown.buffer().dimensions();
        let hwc = Tensor::from_slice(shown.buffer()).view([i64::from(h), i64::from(w), 4]);
        let rgba = hwc.permute([2, 0, 1]);
        assert_eq!(rgba.get(3).min(), Tensor::from(255_u8));
        read.pictures.push(rgba.narrow(0, 0, 3));
    }
    read
}

fn write(
    name: &str,
    frames: &[Tensor],
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
        assert_eq!(read.pictures, frames(channels));
        assert_eq!(read.millis, [47, 47, 47, 2013]);
    }
}

#[test]
fn a_gif_of_few_colours_is_exact_and_lasts_as_asked() {
    for channels in [1, 3] {
        let (_dir, path) = write("a.gif", &frames(channels), (47, 2013));
        let read = read_gif(&path);
        assert_eq!(read.pictures.len(), 4);
        for (read, wanted) in read.pictures.iter().zip(frames(channels)) {
            assert_eq!(*read, wanted.expand([3, H, W], false));
        }
        assert_eq!(read.millis, [50, 50, 50, 2010]);
    }
}

#[test]
fn a_gif_of_many_colours_is_near() {
    // 4096 colours that fill a plane of the cube.
    let ramp = Tensor::arange(64, (Kind::Int64, Device::Cpu));
    let (x, y) = (ramp.view([1, 64]), ramp.view([64, 1]));
    let planes = [&x * 4, &y * 4, &x * 2 + &y * 2].map(|plane| plane.expand([64, 64], false));
    let picture = Tensor::stack(&planes, 0).to_kind(Kind::Uint8);
    let (_dir, path) = write("a.gif", &[picture.shallow_clone()], (100, 100));
    let read = read_gif(&path).pictures.remove(0);
    let apart = (read.to_kind(Kind::Float) - picture.to_kind(Kind::Float)).abs();
    let (mean, most) = (
        f64::try_from(apart.mean(Kind::Double)).unwrap(),
        f64::try_from(apart.max()).unwrap(),
    );
    // Squares of 4 by 4 pixels, the best there can be, give a mean of 3.5 and at most 6. The encoder seeks
    // its palette step by step: 5.9 and 28 today, with room for another version of it.
    assert!(mean < 8.0 && most < 40.0, "mean {mean}, most {most}");
}

#[test]
fn a_single_frame_lasts_as_the_last_does() {
    let one = [frame(0, 3)];
    let (_dir, path) = write("a.png", &one, (100, 300));
    let read = read_apng(&path);
    assert_eq!(read.pictures, one);
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
    let other_size = frame(0, 3).narrow(2, 0, 6);
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
            "[3, 5, 6], want u8 and the first one's shape, [3, 5, 7]",
        ),
        (
            "a.png",
            vec![frame(0, 3).to_kind(Kind::Float)],
            100,
            "Float",
        ),
        ("a.png", vec![frame(0, 2)], 100, "[2, 5, 7], want [C, H, W]"),
        (
            "a.png",
            vec![frame(0, 1).get(0)],
            100,
            "[5, 7], want [C, H, W]",
        ),
        ("a.gif", vec![frame(0, 3).narrow(1, 0, 0)], 100, "[3, 0, 7]"),
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
    assert!(check_animation_path(Path::new("a.mp4")).is_err());
    assert!(check_animation_path(Path::new("a.GIF")).is_ok());
}

#[test]
fn a_strip_lies_side_by_side() {
    let first = Tensor::from_slice(&[1_u8, 2, 3, 4]).view([1, 2, 2]);
    let second = Tensor::from_slice(&[5_u8, 6]).view([1, 2, 1]);
    let strip = strip(&[first, second]);
    assert_eq!(strip.size(), [1, 2, 3]);
    assert_eq!(
        Vec::<u8>::try_from(strip.view([-1])).unwrap(),
        [1, 2, 5, 3, 4, 6]
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
