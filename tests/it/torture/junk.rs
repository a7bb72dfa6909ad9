//! Bytes that are almost right, the same at every run.

pub struct Junk(u64);

impl Junk {
    pub fn new(seed: u64) -> Junk {
        Junk(seed | 1)
    }

    /// xorshift64*.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// A few bytes other than they were, some doubled, some gone.
    pub fn changed(&mut self, whole: &[u8]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        for _ in 0..1 + self.below(6) {
            let (at, end) = (self.below(bytes.len()), self.below(bytes.len()));
            match self.below(4) {
                0 if at < end => drop(bytes.drain(at..end)),
                1 if at < end && bytes.len() < 4_096 => bytes.extend_from_within(at..end),
                _ => {
                    let value = self.next() as u8;
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = value;
                    }
                }
            }
        }
        bytes
    }
}
