//! What the kernel's nbd driver asks on its socket, and the answers (nbd's `doc/proto.md`, transmission phase with
//! simple replies). Pure.

/// Bytes of a request.
pub const HEADER: usize = 28;
/// Longest read that is answered; the kernel's are shorter by far.
const LONGEST: u32 = 32 << 20;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// EIO.
pub const NOT_TO_BE_HAD: u32 = 5;
/// EINVAL.
pub const WRONG: u32 = 22;

/// Names a request in its answer.
pub type Cookie = [u8; 8];

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Bytes within the device.
    Read {
        /// Names it.
        cookie: Cookie,
        /// First byte.
        from: u64,
        /// Bytes.
        len: u32,
    },
    /// The device is given up.
    Disconnect,
    /// Nothing that a read-only device of this size does.
    Other(Cookie),
}

/// A request to a device of `size` bytes; `None` where it is none, after which nothing on the socket can be trusted.
pub fn parse(header: &[u8; HEADER], size: u64) -> Option<Request> {
    let (magic, rest) = header.split_first_chunk()?;
    let (_flags, rest) = rest.split_first_chunk::<2>()?;
    let (kind, rest) = rest.split_first_chunk()?;
    let (cookie, rest) = rest.split_first_chunk::<8>()?;
    let (from, rest) = rest.split_first_chunk()?;
    let (len, _) = rest.split_first_chunk()?;
    if u32::from_be_bytes(*magic) != REQUEST_MAGIC {
        return None;
    }
    let (from, len) = (u64::from_be_bytes(*from), u32::from_be_bytes(*len));
    let fits = (1..=LONGEST).contains(&len) && from.checked_add(len.into()).is_some_and(|end| end <= size);
    Some(match u16::from_be_bytes(*kind) {
        0 if fits => Request::Read { cookie: *cookie, from, len },
        2 => Request::Disconnect,
        _ => Request::Other(*cookie),
    })
}

/// An answer's head; the bytes of a read follow where `error` is 0.
pub fn reply(cookie: Cookie, error: u32) -> [u8; 16] {
    let mut out = [0; 16];
    let bytes = REPLY_MAGIC.to_be_bytes().into_iter().chain(error.to_be_bytes()).chain(cookie);
    out.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// As the kernel sends it (`nbd_send_cmd`).
    fn request(magic: u32, kind: u32, from: u64, len: u32) -> [u8; HEADER] {
        let cookie = *b"COOKIE!!";
        [&magic.to_be_bytes()[..], &kind.to_be_bytes(), &cookie, &from.to_be_bytes(), &len.to_be_bytes()]
            .concat()
            .try_into()
            .unwrap()
    }

    #[test]
    fn reads_within_the_device_are_answered_and_nothing_else() {
        let cookie = *b"COOKIE!!";
        let ask = |kind, from, len| parse(&request(REQUEST_MAGIC, kind, from, len), 1 << 20);
        assert_eq!(ask(0, 4096, 8192), Some(Request::Read { cookie, from: 4096, len: 8192 }));
        assert_eq!(
            ask(0, (1 << 20) - 4096, 4096),
            Some(Request::Read { cookie, from: (1 << 20) - 4096, len: 4096 })
        );
        assert_eq!(ask(2, 0, 0), Some(Request::Disconnect));
        // Behind the end, of nothing, around the end of numbers; a write, a flush, a trim.
        for (kind, from, len) in [
            (0, 1 << 20, 1),
            (0, 1, 1 << 20),
            (0, 0, 0),
            (0, u64::MAX, 4096),
            (1, 0, 4096),
            (3, 0, 0),
            (4, 0, 4096),
        ] {
            assert_eq!(ask(kind, from, len), Some(Request::Other(cookie)), "{kind} {from} {len}");
        }
        assert_eq!(parse(&request(REQUEST_MAGIC, 0, 0, u32::MAX), u64::MAX), Some(Request::Other(cookie)));
    }

    #[test]
    fn what_is_no_request_ends_the_connection() {
        assert_eq!(parse(&request(0, 0, 0, 4096), 1 << 20), None);
        assert_eq!(parse(&[0xff; HEADER], 1 << 20), None);
    }

    #[test]
    fn answers_name_what_they_answer() {
        assert_eq!(reply(*b"COOKIE!!", NOT_TO_BE_HAD), *b"\x67\x44\x66\x98\0\0\0\x05COOKIE!!");
    }
}
