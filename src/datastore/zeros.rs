//! Whether bytes are all zero, at memory speed.

/// Bytes looked at before the scan may stop: long enough for full vector speed, short enough that data, which nearly
/// always differs from zero in its first bytes, costs next to nothing.
const STRIDE: usize = 1024;

/// Whether every byte is zero. True for an empty slice.
#[must_use]
pub fn is_zero(data: &[u8]) -> bool {
    let (strides, rest) = data.as_chunks::<STRIDE>();
    strides.iter().all(stride_is_zero) && rest.iter().fold(0, |all, byte| all | byte) == 0
}

/// One stride without a branch inside, so that the compiler turns it into vector ORs.
fn stride_is_zero(stride: &[u8; STRIDE]) -> bool {
    let (words, _) = stride.as_chunks::<8>();
    words.iter().fold(0u64, |all, word| all | u64::from_ne_bytes(*word)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_is_found() {
        for length in [0, 1, 7, 8, 9, STRIDE - 1, STRIDE, STRIDE + 1, 3 * STRIDE + 5] {
            let mut data = vec![0; length];
            assert!(is_zero(&data));
            for at in 0..length {
                data[at] = 0x80;
                assert!(!is_zero(&data), "byte {at} of {length}");
                data[at] = 0;
            }
        }
    }
}
