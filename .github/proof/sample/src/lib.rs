//! Eight kernels of different kinds. Each does its work on all of its input, and then again on a part of it: the part is
//! what a planted slow-down changes, so that its size is known and nothing but work is added.

/// Per mille of the input that each kernel works through once more: dot, softmax, gemv, bytes, parse, sort, scan, hash.
pub const AGAIN: [usize; 8] = [0, 0, 0, 0, 0, 0, 0, 0];

fn again(kernel: usize, length: usize) -> usize {
    length * AGAIN[kernel] / 1000
}

#[inline(never)]
fn dot_part(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 32];
    for (a, b) in a.chunks_exact(32).zip(b.chunks_exact(32)) {
        for lane in 0..32 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum()
}

/// Dot product.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let part = again(0, a.len()) / 32 * 32;
    dot_part(a, b) + dot_part(&a[..part], &b[..part]) * 1e-30
}

#[inline(never)]
fn softmax_part(x: &mut [f32]) {
    let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in &mut *x {
        *x = (*x - most).exp();
        sum += *x;
    }
    for x in x {
        *x /= sum;
    }
}

/// Softmax in place.
pub fn softmax(x: &mut [f32]) {
    softmax_part(x);
    let part = again(1, x.len());
    softmax_part(&mut x[..part]);
}

/// Matrix times vector, row by row.
pub fn gemv(w: &[f32], x: &[f32], y: &mut [f32]) {
    let rows = y.len();
    for at in (0..rows).chain(0..again(2, rows)) {
        y[at] = dot_part(&w[at * x.len()..(at + 1) * x.len()], x);
    }
}

#[inline(never)]
fn bytes_part(text: &[u8]) -> u64 {
    let mut state = 7_u64;
    for byte in text {
        state = state.rotate_left(5) ^ u64::from(*byte).wrapping_mul(31);
    }
    state
}

/// A loop that depends on its own result, byte by byte.
pub fn bytes(text: &[u8]) -> u64 {
    bytes_part(text) ^ bytes_part(&text[..again(3, text.len())])
}

#[inline(never)]
fn parse_part(text: &str) -> f64 {
    text.split(',').filter_map(|word| word.trim().parse::<f64>().ok()).sum()
}

/// Numbers out of a text.
pub fn parse(text: &str) -> f64 {
    parse_part(text) + parse_part(&text[..again(4, text.len())])
}

/// Elements that are sorted together: work that grows with their number alone, so that a part of it is a known part.
const SORTED: usize = 400;

/// Sorts a copy, some elements at a time.
pub fn sort(x: &[u32], scratch: &mut Vec<u32>) -> u32 {
    let mut sum = 0;
    for part in [x.len(), again(5, x.len())] {
        for some in x[..part].chunks(SORTED) {
            scratch.clear();
            scratch.extend_from_slice(some);
            scratch.sort_unstable();
            sum ^= scratch.first().copied().unwrap_or(0);
        }
    }
    sum
}

#[inline(never)]
fn scan_part(x: &[u32], y: &mut [u32]) {
    let mut sum = 0_u32;
    for (x, y) in x.iter().zip(y) {
        sum = sum.wrapping_add(*x) ^ (sum >> 3);
        *y = sum;
    }
}

/// A running sum.
pub fn scan(x: &[u32], y: &mut [u32]) {
    scan_part(x, y);
    let part = again(6, x.len());
    scan_part(&x[..part], y);
}

#[inline(never)]
fn hash_part(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Fowler, Noll and Vo's hash.
pub fn hash(text: &[u8]) -> u64 {
    hash_part(text) ^ hash_part(&text[..again(7, text.len())])
}
