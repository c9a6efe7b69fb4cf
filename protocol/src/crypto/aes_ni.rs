//! AES-CMAC and AES-CCM on the AES instructions of x86-64.
//!
//! Both are chains: each block waits for the one before, so the general libraries run at the latency of a whole AES with
//! overhead around it (`cargo bench -p smb-proto` shows both beside each other). CCM's counter blocks are computed in the
//! shadow of its chain. Clients of SMB 3.0 and 3.0.2 have nothing else to choose.
//!
//! This is the one module with `unsafe`, for two reasons: functions compiled for these instructions may only be called once
//! the CPU was seen to have them ([`Keys`] can't be made otherwise), and blocks are loaded from and stored to unaligned
//! memory by address. The crates `cmac` and `ccm` stand in where the instructions are missing, and are the oracle in tests.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m128i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_aeskeygenassist_si128, _mm_loadu_si128,
    _mm_shuffle_epi32, _mm_slli_si128, _mm_storeu_si128, _mm_xor_si128,
};

use subtle::ConstantTimeEq;

/// Bytes of an AES block.
const BLOCK: usize = 16;
/// Bytes of CCM's nonce in SMB (MS-SMB2 2.2.41): leaves 4 bytes of message length and counter.
pub(super) const CCM_NONCE_LEN: usize = 11;
/// CCM's flags of block 0: there is associated data, a tag of 16 bytes, a length of 4 (RFC 3610 2.2).
const CCM_FLAGS_MAC: u8 = 0x40 | ((16 - 2) / 2) << 3 | CCM_FLAGS_COUNTER;
/// CCM's flags of a counter block: a counter of 4 bytes (RFC 3610 2.3).
const CCM_FLAGS_COUNTER: u8 = 4 - 1;

type Block = [u8; BLOCK];

fn load(block: &Block) -> __m128i {
    // SAFETY: sixteen bytes are there to be read; the load needs no alignment and SSE2 is part of x86-64.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

fn store(value: __m128i) -> Block {
    let mut block = [0; BLOCK];
    // SAFETY: sixteen bytes are there to be written; the store needs no alignment and SSE2 is part of x86-64.
    unsafe { _mm_storeu_si128(block.as_mut_ptr().cast(), value) };
    block
}

fn xor(a: __m128i, b: __m128i) -> __m128i {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_xor_si128(a, b) }
}

/// A short block, filled up with zeros.
fn padded(part: &[u8]) -> Block {
    let mut block = [0; BLOCK];
    block[..part.len()].copy_from_slice(part);
    block
}

/// The round keys of AES-128 (`ROUNDS` = 10) or AES-256 (14). A value proves that the CPU has the AES instructions.
#[derive(Clone)]
struct Keys<const ROUNDS: usize>([__m128i; 15]);

/// One step of the key schedule (FIPS 197 5.2): the running XOR of `previous` with itself shifted, and `mixed`.
fn next_key(previous: __m128i, mixed: __m128i) -> __m128i {
    // SAFETY: SSE2 is part of x86-64.
    let shift = |value| unsafe { _mm_slli_si128::<4>(value) };
    let once = xor(previous, shift(previous));
    let twice = xor(once, shift(once));
    xor(xor(twice, shift(twice)), mixed)
}

/// The last word of `source` rotated, substituted, with the round's constant, in all four places.
#[target_feature(enable = "aes")]
fn rotated<const RCON: i32>(source: __m128i) -> __m128i {
    _mm_shuffle_epi32::<0xFF>(_mm_aeskeygenassist_si128::<RCON>(source))
}

/// The last word of `source` substituted, in all four places: the odd keys of AES-256.
#[target_feature(enable = "aes")]
fn substituted(source: __m128i) -> __m128i {
    _mm_shuffle_epi32::<0xAA>(_mm_aeskeygenassist_si128::<0>(source))
}

#[target_feature(enable = "aes")]
fn schedule_128(key: &Block) -> [__m128i; 15] {
    let mut keys = [load(key); 15];
    keys[1] = next_key(keys[0], rotated::<0x01>(keys[0]));
    keys[2] = next_key(keys[1], rotated::<0x02>(keys[1]));
    keys[3] = next_key(keys[2], rotated::<0x04>(keys[2]));
    keys[4] = next_key(keys[3], rotated::<0x08>(keys[3]));
    keys[5] = next_key(keys[4], rotated::<0x10>(keys[4]));
    keys[6] = next_key(keys[5], rotated::<0x20>(keys[5]));
    keys[7] = next_key(keys[6], rotated::<0x40>(keys[6]));
    keys[8] = next_key(keys[7], rotated::<0x80>(keys[7]));
    keys[9] = next_key(keys[8], rotated::<0x1B>(keys[8]));
    keys[10] = next_key(keys[9], rotated::<0x36>(keys[9]));
    keys
}

#[target_feature(enable = "aes")]
fn schedule_256(low: &Block, high: &Block) -> [__m128i; 15] {
    let mut keys = [load(low); 15];
    keys[1] = load(high);
    keys[2] = next_key(keys[0], rotated::<0x01>(keys[1]));
    keys[3] = next_key(keys[1], substituted(keys[2]));
    keys[4] = next_key(keys[2], rotated::<0x02>(keys[3]));
    keys[5] = next_key(keys[3], substituted(keys[4]));
    keys[6] = next_key(keys[4], rotated::<0x04>(keys[5]));
    keys[7] = next_key(keys[5], substituted(keys[6]));
    keys[8] = next_key(keys[6], rotated::<0x08>(keys[7]));
    keys[9] = next_key(keys[7], substituted(keys[8]));
    keys[10] = next_key(keys[8], rotated::<0x10>(keys[9]));
    keys[11] = next_key(keys[9], substituted(keys[10]));
    keys[12] = next_key(keys[10], rotated::<0x20>(keys[11]));
    keys[13] = next_key(keys[11], substituted(keys[12]));
    keys[14] = next_key(keys[12], rotated::<0x40>(keys[13]));
    keys
}

fn available() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

impl Keys<10> {
    fn new(key: &[u8]) -> Option<Self> {
        let key = <&Block>::try_from(key).ok()?;
        // SAFETY: the instructions were just found.
        available().then(|| Self(unsafe { schedule_128(key) }))
    }
}

impl Keys<14> {
    fn new(key: &[u8]) -> Option<Self> {
        let (low, high) = key.split_at_checked(BLOCK)?;
        let (low, high) = (<&Block>::try_from(low).ok()?, <&Block>::try_from(high).ok()?);
        // SAFETY: the instructions were just found.
        available().then(|| Self(unsafe { schedule_256(low, high) }))
    }
}

impl<const ROUNDS: usize> Keys<ROUNDS> {
    #[target_feature(enable = "aes")]
    fn encrypt(&self, block: __m128i) -> __m128i {
        let mut block = xor(block, self.0[0]);
        for key in &self.0[1..ROUNDS] {
            block = _mm_aesenc_si128(block, *key);
        }
        _mm_aesenclast_si128(block, self.0[ROUNDS])
    }

    /// Two independent blocks, one in the other's latency.
    #[target_feature(enable = "aes")]
    fn encrypt_both(&self, one: __m128i, two: __m128i) -> (__m128i, __m128i) {
        let (mut one, mut two) = (xor(one, self.0[0]), xor(two, self.0[0]));
        for key in &self.0[1..ROUNDS] {
            one = _mm_aesenc_si128(one, *key);
            two = _mm_aesenc_si128(two, *key);
        }
        (_mm_aesenclast_si128(one, self.0[ROUNDS]), _mm_aesenclast_si128(two, self.0[ROUNDS]))
    }

    /// The CBC-MAC of whole blocks, continued from `chain`.
    #[target_feature(enable = "aes")]
    fn chain(&self, mut chain: __m128i, blocks: &[Block]) -> __m128i {
        for block in blocks {
            chain = self.encrypt(xor(chain, load(block)));
        }
        chain
    }
}

/// AES-128-CMAC (RFC 4493) with its subkeys.
pub(super) struct Cmac {
    keys: Keys<10>,
    whole: Block,
    short: Block,
}

/// A subkey from the one before: doubled in GF(2^128) (RFC 4493 2.3).
fn doubled(block: Block) -> Block {
    let value = u128::from_be_bytes(block);
    (value << 1 ^ if value >> 127 == 1 { 0x87 } else { 0 }).to_be_bytes()
}

impl Cmac {
    /// Prepares a key of 16 bytes; `None` for another length, or where the CPU has no AES instructions.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        let keys = Keys::<10>::new(key)?;
        // SAFETY: a value of `Keys` proves that the instructions are there.
        let zero = store(unsafe { keys.encrypt(load(&[0; BLOCK])) });
        let whole = doubled(zero);
        Some(Self { keys, whole, short: doubled(whole) })
    }

    /// The MAC of a message.
    pub(super) fn compute(&self, message: &[u8]) -> Block {
        // SAFETY: a value of `Keys` proves that the instructions are there.
        unsafe { self.run(message) }
    }

    #[target_feature(enable = "aes")]
    fn run(&self, message: &[u8]) -> Block {
        // The last block, whole or not, is not part of the plain chain.
        let before = message.len().saturating_sub(1) / BLOCK;
        let (blocks, _) = message.as_chunks::<BLOCK>();
        let chain = self.keys.chain(load(&[0; BLOCK]), &blocks[..before]);
        let rest = &message[before * BLOCK..];
        let mut last = padded(rest);
        let subkey = if rest.len() == BLOCK { &self.whole } else { &self.short };
        if rest.len() < BLOCK {
            last[rest.len()] = 0x80;
        }
        store(self.keys.encrypt(xor(xor(load(&last), load(subkey)), chain)))
    }
}

/// AES-CCM (RFC 3610) with a nonce of 11 bytes and a tag of 16. `ROUNDS`: 10 for a key of 16 bytes, 14 for one of 32.
pub(super) struct Ccm<const ROUNDS: usize>(Keys<ROUNDS>);

impl Ccm<10> {
    /// Prepares a key of 16 bytes; `None` for another length, or where the CPU has no AES instructions.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        Some(Self(Keys::<10>::new(key)?))
    }
}

impl Ccm<14> {
    /// Prepares a key of 32 bytes; `None` for another length, or where the CPU has no AES instructions.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        Some(Self(Keys::<14>::new(key)?))
    }
}

fn counter_block(nonce: &[u8; CCM_NONCE_LEN], counter: u32) -> Block {
    let mut block = [0; BLOCK];
    block[0] = CCM_FLAGS_COUNTER;
    block[1..=CCM_NONCE_LEN].copy_from_slice(nonce);
    block[CCM_NONCE_LEN + 1..].copy_from_slice(&counter.to_be_bytes());
    block
}

impl<const ROUNDS: usize> Ccm<ROUNDS> {
    /// Encrypts in place; the tag. `message` is shorter than 4 GiB, `aad` shorter than 65,280 bytes.
    pub(super) fn seal(&self, nonce: &[u8; CCM_NONCE_LEN], aad: &[u8], message: &mut [u8]) -> Block {
        // SAFETY: a value of `Keys` proves that the instructions are there.
        unsafe { self.run::<true>(nonce, aad, message) }
    }

    /// Decrypts in place; whether the tag is right. Where it is not, nothing of the message is left.
    pub(super) fn open(
        &self,
        nonce: &[u8; CCM_NONCE_LEN],
        aad: &[u8],
        message: &mut [u8],
        tag: &[u8],
    ) -> bool {
        // SAFETY: a value of `Keys` proves that the instructions are there.
        let expected = unsafe { self.run::<false>(nonce, aad, message) };
        let right = bool::from(expected.ct_eq(tag));
        if !right {
            message.fill(0);
        }
        right
    }

    /// The chain after block 0 and the associated data (RFC 3610 2.2).
    #[target_feature(enable = "aes")]
    fn begin(&self, nonce: &[u8; CCM_NONCE_LEN], aad: &[u8], message_len: usize) -> __m128i {
        let mut first = counter_block(nonce, message_len as u32);
        first[0] = CCM_FLAGS_MAC;
        let chain = self.0.encrypt(load(&first));
        let (head, rest) = aad.split_at(aad.len().min(BLOCK - 2));
        let mut block = [0; BLOCK];
        block[..2].copy_from_slice(&(aad.len() as u16).to_be_bytes());
        block[2..2 + head.len()].copy_from_slice(head);
        let chain = self.0.encrypt(xor(chain, load(&block)));
        let (blocks, tail) = rest.as_chunks::<BLOCK>();
        let chain = self.0.chain(chain, blocks);
        if tail.is_empty() { chain } else { self.0.encrypt(xor(chain, load(&padded(tail)))) }
    }

    /// Both directions: the chain runs over the plain text, which is the input when sealing and the output when opening.
    #[target_feature(enable = "aes")]
    fn run<const SEAL: bool>(&self, nonce: &[u8; CCM_NONCE_LEN], aad: &[u8], message: &mut [u8]) -> Block {
        let chain = self.begin(nonce, aad, message.len());
        let (mut chain, mut stream) = (chain, self.0.encrypt(load(&counter_block(nonce, 1))));
        let mut counter = 1_u32;
        let (blocks, tail) = message.as_chunks_mut::<BLOCK>();
        for block in blocks {
            counter = counter.wrapping_add(1);
            let input = load(block);
            let output = xor(input, stream);
            *block = store(output);
            let plain = if SEAL { input } else { output };
            // The key stream of the next block, in the latency of this one's chain.
            (chain, stream) = self.0.encrypt_both(xor(chain, plain), load(&counter_block(nonce, counter)));
        }
        if !tail.is_empty() {
            let input = padded(tail);
            let stream = store(stream);
            for (byte, key) in tail.iter_mut().zip(stream) {
                *byte ^= key;
            }
            let plain = if SEAL { input } else { padded(tail) };
            chain = self.0.encrypt(xor(chain, load(&plain)));
        }
        store(xor(chain, self.0.encrypt(load(&counter_block(nonce, 0)))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use aes::{Aes128, Aes256};
    use ccm::KeyInit;
    use ccm::aead::AeadInOut;
    use ccm::consts::{U11, U16};
    use cmac::Mac;
    use proptest::prelude::*;

    #[test]
    fn the_instructions_are_there() {
        assert!(available(), "these tests prove nothing on a CPU without AES instructions");
    }

    proptest! {
        #[test]
        fn cmac_is_that_of_the_crate(key: [u8; 16], message in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut other = cmac::Cmac::<Aes128>::new_from_slice(&key).unwrap();
            other.update(&message);
            let expected: [u8; 16] = other.finalize().into_bytes().into();
            prop_assert_eq!(Cmac::new(&key).unwrap().compute(&message), expected);
        }

        #[test]
        fn ccm_is_that_of_the_crate(
            key: [u8; 32],
            nonce: [u8; 11],
            aad in prop::collection::vec(any::<u8>(), 1..80),
            message in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let short = ccm::Ccm::<Aes128, U16, U11>::new_from_slice(&key[..16]).unwrap();
            let long = ccm::Ccm::<Aes256, U16, U11>::new_from_slice(&key).unwrap();
            let ours = (Ccm::<10>::new(&key[..16]).unwrap(), Ccm::<14>::new(&key).unwrap());
            for wide in [false, true] {
                let mut theirs = message.clone();
                let buffer = theirs.as_mut_slice().into();
                let tag = if wide {
                    long.encrypt_inout_detached(&nonce.into(), &aad, buffer)
                } else {
                    short.encrypt_inout_detached(&nonce.into(), &aad, buffer)
                };
                let tag: [u8; 16] = tag.unwrap().into();
                let mut mine = message.clone();
                let made = if wide { ours.1.seal(&nonce, &aad, &mut mine) } else { ours.0.seal(&nonce, &aad, &mut mine) };
                prop_assert_eq!((&mine, made), (&theirs, tag));
                let open = |text: &mut [u8], tag: &[u8]| {
                    if wide { ours.1.open(&nonce, &aad, text, tag) } else { ours.0.open(&nonce, &aad, text, tag) }
                };
                prop_assert!(open(&mut mine, &tag));
                prop_assert_eq!(&mine, &message);
                prop_assert!(!open(&mut theirs, &[0; 16]));
                prop_assert!(theirs.iter().all(|byte| *byte == 0));
            }
        }
    }
}
