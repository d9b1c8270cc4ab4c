//! NumPy's first generator of random numbers, so that subsets are those that other programs draw.
//!
//! `numpy.random.RandomState` is the Mersenne Twister, seeded by its authors' `init_genrand`, and NumPy keeps
//! what it draws the same for ever.

use rand_mt::Mt;

/// `numpy.random.RandomState(seed)`.
pub(super) struct RandomState(Mt);

impl RandomState {
    pub(super) fn new(seed: u32) -> Self {
        Self(Mt::new(seed))
    }

    /// `permutation(n)`: the numbers 0 to n - 1 in random order, by Fisher and Yates's method from the end.
    pub(super) fn permutation(&mut self, n: usize) -> Vec<i64> {
        let mut order: Vec<i64> = (0..n as i64).collect();
        for last in (1..n).rev() {
            order.swap(last, self.at_most(last as u32) as usize);
        }
        order
    }

    /// `choice(n, m, replace=False)`: m of the numbers 0 to n - 1.
    pub(super) fn choice(&mut self, n: usize, m: usize) -> Vec<i64> {
        let mut chosen = self.permutation(n);
        chosen.truncate(m);
        chosen
    }

    /// A number from 0 to `most`, both included: of as many bits as that has, until one is not above it.
    fn at_most(&mut self, most: u32) -> u32 {
        let mask = u32::MAX >> most.leading_zeros();
        loop {
            let drawn = self.0.next_u32() & mask;
            if drawn <= most {
                return drawn;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_numpy() {
        // rng = numpy.random.RandomState(2020); rng.permutation(10); rng.choice(1000, 5, replace=False), of NumPy
        // 2.4.6.
        let mut rng = RandomState::new(2020);
        assert_eq!(rng.permutation(10), PERMUTATION);
        assert_eq!(rng.choice(1000, 5), CHOICE);
        assert_eq!(rng.permutation(1), [0]);
        assert_eq!(rng.permutation(0), [0_i64; 0]);
    }

    const PERMUTATION: [i64; 10] = [2, 4, 9, 1, 5, 7, 6, 3, 8, 0];
    const CHOICE: [i64; 5] = [358, 763, 430, 530, 677];
}
