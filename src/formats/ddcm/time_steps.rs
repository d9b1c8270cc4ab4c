//! The visited time steps in few bytes: most spacings are straight lines, rounded.

use super::error::DdcmError;
use super::fields::{Fields, push_varint};

const LINE: u8 = 0;
const LIST: u8 = 1;

/// Appends strictly falling `steps` below `timesteps`, in the shorter of the two forms.
pub(super) fn push_steps(bytes: &mut Vec<u8>, timesteps: u32, steps: &[u32]) {
    let list = list_form(steps);
    let form = match line_form(timesteps, steps) {
        Some(line) if line.len() < list.len() => line,
        _ => list,
    };
    bytes.extend(form);
}

fn list_form(steps: &[u32]) -> Vec<u8> {
    let mut bytes = vec![LIST];
    push_varint(&mut bytes, steps.len() as u64);
    push_varint(&mut bytes, u64::from(steps[0]));
    for pair in steps.windows(2) {
        push_varint(&mut bytes, u64::from(pair[0] - pair[1]));
    }
    bytes
}

/// `t_i = floor((a - b i) / c)`, if one of the usual slopes fits all steps: through both ends, for
/// every t or any `linspace`, or T / S, for "trailing" spacings.
fn line_form(timesteps: u32, steps: &[u32]) -> Option<Vec<u8>> {
    let count = steps.len() as u64;
    let through_ends = (u64::from(steps[0] - steps[steps.len() - 1]), count - 1);
    let (a, b, c) = [through_ends, (u64::from(timesteps), count)]
        .into_iter()
        .filter(|(_, c)| *c > 0)
        .find_map(|(b, c)| {
            let (b, c) = (b / gcd(b, c), c / gcd(b, c));
            Some((offset(steps, b, c)?, b, c))
        })?;
    let mut bytes = vec![LINE];
    for number in [count, a, b, c] {
        push_varint(&mut bytes, number);
    }
    Some(bytes)
}

/// The least a for which floor((a - b i) / c) is `steps[i]` everywhere, if there is one.
fn offset(steps: &[u32], b: u64, c: u64) -> Option<u64> {
    // steps[i] c <= a - b i < (steps[i] + 1) c
    let at_least = |(i, t): (usize, &u32)| u64::from(*t) * c + b * i as u64;
    let a = steps.iter().enumerate().map(at_least).max()?;
    let fits = steps
        .iter()
        .enumerate()
        .map(at_least)
        .all(|least| a < least + c);
    fits.then_some(a)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Reads the output of [`push_steps`]. The caller checks that the steps fall.
pub(super) fn parse_steps(fields: &mut Fields, timesteps: u32) -> Result<Vec<u32>, DdcmError> {
    let form = fields.u8()?;
    let count = fields.varint_to(u64::from(timesteps), "the number of steps")?;
    match form {
        LINE => parse_line(fields, count),
        LIST => parse_list(fields, timesteps, count),
        _ => Err(DdcmError::malformed(format!(
            "steps in form {form}, want 0 or 1"
        ))),
    }
}

fn parse_line(fields: &mut Fields, count: u64) -> Result<Vec<u32>, DdcmError> {
    let (a, b, c) = (fields.varint()?, fields.varint()?, fields.varint()?);
    let step = |i: u64| {
        let numerator = a.checked_sub(b.checked_mul(i)?)?;
        u32::try_from(numerator.checked_div(c)?).ok()
    };
    let steps: Option<Vec<u32>> = (0..count).map(step).collect();
    steps.ok_or_else(|| {
        DdcmError::malformed(format!(
            "the steps floor(({a} - {b} i) / {c}) are not numbers from 0 to T for all i below {count}"
        ))
    })
}

fn parse_list(fields: &mut Fields, timesteps: u32, count: u64) -> Result<Vec<u32>, DdcmError> {
    let mut steps = Vec::new();
    for _ in 0..count {
        let number = fields.varint_to(
            u64::from(timesteps),
            "a step, or the difference to the next,",
        )? as u32;
        let step = match steps.last() {
            None => Some(number),
            Some(last) => u32::checked_sub(*last, number),
        };
        let below = || DdcmError::malformed("a step below 0".to_owned());
        steps.push(step.ok_or_else(below)?);
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(timesteps: u32, steps: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_steps(&mut bytes, timesteps, steps);
        let read = parse_steps(&mut Fields::new(&bytes, 0), timesteps);
        assert_eq!(read.as_deref(), Ok(steps));
        bytes
    }

    /// All t; even steps from the top, from the bottom and between the ends, rounded and cut, for counts that
    /// divide T and that do not.
    #[test]
    fn usual_spacings_are_lines() {
        for (t, s) in [
            (1000, 1000),
            (1000, 50),
            (1000, 30),
            (1000, 7),
            (4000, 333),
            (20, 19),
        ] {
            let fall = |step: &dyn Fn(f64) -> f64| -> Vec<u32> {
                (0..s).rev().map(|i| step(f64::from(i)) as u32).collect()
            };
            let (total, count) = (f64::from(t), f64::from(s));
            for steps in [
                fall(&|i| i * (total / count).floor()),
                fall(&|i| (i * (total - 1.0) / (count - 1.0)).floor()),
                fall(&|i| (i * (total - 1.0) / (count - 1.0)).round()),
                fall(&|i| ((i + 1.0) * total / count).round() - 1.0),
                fall(&|i| (i * total / count).floor()),
            ] {
                let bytes = encoded(t, &steps);
                assert_eq!(bytes[0], LINE, "{t} {s} {steps:?}");
                assert!(bytes.len() <= 12, "{t} {s}: {} bytes", bytes.len());
            }
        }
    }

    #[test]
    fn other_steps_are_a_list() {
        // Quadratic, as DDIM has it for CIFAR-10.
        let quadratic: Vec<u32> = (0..50).rev().map(|i| i * i / 3).collect();
        let quadratic: Vec<u32> = quadratic[..48].to_vec();
        assert_eq!(encoded(1000, &quadratic)[0], LIST);
        assert_eq!(encoded(1000, &[999]), [LIST, 1, 0xE7, 7]);
        assert_eq!(encoded(1000, &[999, 0]), [LIST, 2, 0xE7, 7, 0xE7, 7]);
    }

    #[test]
    fn numbers_that_are_no_steps_are_refused() {
        let refused = |form: u8, numbers: &[u64]| {
            let mut bytes = vec![form];
            numbers.iter().for_each(|n| push_varint(&mut bytes, *n));
            parse_steps(&mut Fields::new(&bytes, 0), 1000)
                .unwrap_err()
                .to_string()
        };
        for (form, numbers, reason) in [
            (2, &[1, 5][..], "form 2"),
            (LIST, &[1001], "number of steps is 1001, want at most 1000"),
            (LIST, &[2, 5, 6], "a step below 0"),
            (LIST, &[2, 1001, 1], "is 1001"),
            (LINE, &[u64::MAX, 1, 1, 1], "number of steps"),
            (LINE, &[3, 5, 3, 1], "floor((5 - 3 i) / 1)"),
            (LINE, &[3, 5, u64::MAX, 1], "not numbers"),
            (LINE, &[3, 5, 1, 0], "not numbers"),
            (LINE, &[3, u64::MAX, 1, 1], "not numbers"),
        ] {
            let message = refused(form, numbers);
            assert!(message.contains(reason), "{message}");
        }
    }
}
