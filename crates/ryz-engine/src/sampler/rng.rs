//! The generator behind every draw: xoshiro256++ (Blackman and Vigna, 2019), seeded through SplitMix64.
//!
//! It is fixed: the same seed gives the same draws on every machine and in every release. A draw takes the upper 53
//! bits of one output as a fraction in [0, 1). Each chosen token takes one draw (greedy takes none), and XTC one more.

/// xoshiro256++ state.
#[derive(Debug, Clone)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// Expands a seed into a state with SplitMix64, as the authors of xoshiro advise.
    pub fn new(seed: u64) -> Self {
        let mut s = seed;
        Self {
            state: std::array::from_fn(|_| split_mix(&mut s)),
        }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A fraction in [0, 1), a multiple of 2^-53.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xoshiro_gives_the_published_outputs() {
        // From the authors' C code with state {1, 2, 3, 4}.
        let mut rng = Rng {
            state: [1, 2, 3, 4],
        };
        for want in [
            41_943_041,
            58_720_359,
            3_588_806_011_781_223,
            3_591_011_842_654_386,
            9_228_616_714_210_784_205,
            9_973_669_472_204_895_162,
            14_011_001_112_246_962_877,
            12_406_186_145_184_390_807,
            15_849_039_046_786_891_736,
            10_450_023_813_501_588_000_u64,
        ] {
            assert_eq!(rng.next_u64(), want);
        }
    }

    #[test]
    fn split_mix_gives_the_published_outputs() {
        let mut state = 1_234_567;
        for want in [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821_u64,
        ] {
            assert_eq!(split_mix(&mut state), want);
        }
    }

    #[test]
    fn fractions_stay_below_one_and_differ_by_seed() {
        let mut a = Rng::new(0);
        let mut b = Rng::new(1);
        for _ in 0..1000 {
            let (x, y) = (a.next_f64(), b.next_f64());
            assert!((0.0..1.0).contains(&x) && (0.0..1.0).contains(&y));
            assert_ne!(x, y);
        }
    }
}
