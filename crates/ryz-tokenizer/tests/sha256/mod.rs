//! SHA-256 (FIPS 180-4), so that texts that are not in the repository can be compared with it.

/// The digest in hexadecimal.
pub fn hex(data: &[u8]) -> String {
    let constants: Vec<u32> = primes(64)
        .map(|prime| fraction(f64::cbrt(prime), prime, 3))
        .collect();
    let initial: Vec<u32> = primes(8)
        .map(|prime| fraction(f64::sqrt(prime), prime, 2))
        .collect();
    let mut hash: [u32; 8] = std::array::from_fn(|i| initial[i]);
    let mut padded = data.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(64), 0);
    if padded.len() - data.len() < 9 {
        padded.resize(padded.len() + 64, 0);
    }
    let end = padded.len();
    padded[end - 8..].copy_from_slice(&(data.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut w = [0u32; 64];
        for (word, bytes) in w.iter_mut().zip(block.chunks_exact(4)) {
            *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        for i in 16..64 {
            let small0 = w[i - 15].rotate_right(7) ^ w[i - 15].rotate_right(18) ^ (w[i - 15] >> 3);
            let small1 = w[i - 2].rotate_right(17) ^ w[i - 2].rotate_right(19) ^ (w[i - 2] >> 10);
            let sum = w[i - 16].wrapping_add(small0).wrapping_add(w[i - 7]);
            w[i] = sum.wrapping_add(small1);
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = hash;
        for (&constant, &word) in constants.iter().zip(&w) {
            let big1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let choice = (e & f) ^ (!e & g);
            let one = h.wrapping_add(big1).wrapping_add(choice);
            let one = one.wrapping_add(constant).wrapping_add(word);
            let big0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let two = big0.wrapping_add((a & b) ^ (a & c) ^ (b & c));
            (h, g, f, e) = (g, f, e, d.wrapping_add(one));
            (d, c, b, a) = (c, b, a, one.wrapping_add(two));
        }
        for (sum, part) in hash.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *sum = sum.wrapping_add(part);
        }
    }
    hash.iter().map(|word| format!("{word:08x}")).collect()
}

fn primes(count: usize) -> impl Iterator<Item = f64> {
    let prime = |&number: &u32| (2..number).all(|factor| !number.is_multiple_of(factor));
    (2..).filter(prime).take(count).map(f64::from)
}

/// The first 32 bits behind the point of a root, which `near` is close to.
fn fraction(near: f64, of: f64, power: u32) -> u32 {
    let scaled = (near * 4_294_967_296.0) as u128;
    // The largest integer whose power is at most the scaled radicand.
    let radicand = (of as u128) << (32 * power);
    let root = (scaled - 2..=scaled + 2).rfind(|root| {
        root.checked_pow(power)
            .is_some_and(|value| value <= radicand)
    });
    root.unwrap_or_default() as u32
}

#[test]
fn digests_are_those_of_the_standard() {
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(hex(b"abc"), abc);
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(hex(b""), empty);
}
