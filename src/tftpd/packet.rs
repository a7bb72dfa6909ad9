//! TFTP packets as bytes (RFC 1350, 2347, 2348, 2349, 7440): what a client may send, parsed and
//! bounded, and what a server that only reads has to say. Pure.

/// Request packets are at most this long (RFC 2347 section "Packet Formats").
pub const MAX_REQUEST: usize = 512;
/// Bytes of opcode and block number in front of a DATA payload.
pub const DATA_HEADER: usize = 4;
/// Payload of a DATA packet where no blksize was agreed.
pub const DEFAULT_BLKSIZE: u16 = 512;
/// Longest file name that is taken.
const MAX_NAME: usize = 255;

const RRQ: u16 = 1;
const WRQ: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// Error codes of RFC 1350 section 5 and RFC 2347.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 0: see the message.
    Undefined,
    /// 1.
    NotFound,
    /// 2.
    AccessViolation,
    /// 4.
    IllegalOperation,
}

impl Code {
    fn number(self) -> u16 {
        match self {
            Code::Undefined => 0,
            Code::NotFound => 1,
            Code::AccessViolation => 2,
            Code::IllegalOperation => 4,
        }
    }
}

/// Why a datagram is no TFTP packet. Such a datagram is counted and dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Cut short.
    #[error("it ends in the middle of a field")]
    Truncated,
    /// A request longer than [`MAX_REQUEST`] or a name longer than 255 bytes.
    #[error("it is longer than TFTP allows")]
    TooLong,
    /// An opcode that no RFC names.
    #[error("opcode {0} is none of TFTP's")]
    Opcode(u16),
}

/// A first packet, sent to the well-known port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Read request.
    Read(Request),
    /// Write request, with the name asked for.
    Write(String),
    /// A packet that belongs to a transfer and not here.
    Stray,
}

/// How a file is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bytes as they are.
    Octet,
    /// Line ends translated: would damage a boot program.
    Netascii,
    /// `mail` or anything else.
    Other,
}

/// A read request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// File name as sent; not yet cleaned, see [`clean_name`].
    pub name: Vec<u8>,
    /// Transfer mode.
    pub mode: Mode,
    /// Options that we know and that have sensible values.
    pub options: Options,
}

/// Options asked for. One that is unknown or nonsense is left out, which is how a server declines
/// it (RFC 2347).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// RFC 2348, 8 to 65,464 bytes; larger values are cut to that.
    pub blksize: Option<u16>,
    /// RFC 2349: the client wants to know the size.
    pub tsize: bool,
    /// RFC 2349, 1 to 255 seconds.
    pub timeout: Option<u8>,
    /// RFC 7440, 1 to 65,535 blocks.
    pub windowsize: Option<u16>,
}

impl Options {
    /// True where no option that we know was asked for: then no OACK is sent.
    pub fn is_empty(&self) -> bool {
        *self == Options::default()
    }
}

/// A packet of a running transfer, from the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Block received, as its 16-bit number.
    Ack(u16),
    /// The client gives up.
    Error {
        /// As sent; 8 declines the options (RFC 2347).
        code: u16,
        /// Printable part of its text, at most 80 characters.
        message: String,
    },
    /// The request once more (our answer was lost), or something that makes no sense here.
    Other,
}

/// Reads a first packet.
pub fn parse_opening(datagram: &[u8]) -> Result<Opening, Malformed> {
    let (opcode, rest) = opcode(datagram)?;
    match opcode {
        RRQ | WRQ if datagram.len() > MAX_REQUEST => Err(Malformed::TooLong),
        RRQ => Ok(Opening::Read(request(rest)?)),
        WRQ => Ok(Opening::Write(printable(&request(rest)?.name))),
        DATA | ACK | ERROR | OACK => Ok(Opening::Stray),
        other => Err(Malformed::Opcode(other)),
    }
}

/// Reads a packet that came to a transfer's own port.
pub fn parse_reply(datagram: &[u8]) -> Result<Reply, Malformed> {
    let (opcode, rest) = opcode(datagram)?;
    match opcode {
        ACK => Ok(Reply::Ack(number(rest)?.0)),
        ERROR => {
            let (code, text) = number(rest)?;
            let text = text.split(|b| *b == 0).next().unwrap_or_default();
            Ok(Reply::Error { code, message: printable(text) })
        }
        RRQ | WRQ | DATA | OACK => Ok(Reply::Other),
        other => Err(Malformed::Opcode(other)),
    }
}

fn opcode(datagram: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    number(datagram)
}

fn number(bytes: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    let (head, rest) = bytes.split_first_chunk::<2>().ok_or(Malformed::Truncated)?;
    Ok((u16::from_be_bytes(*head), rest))
}

/// Up to the next NUL, and what follows it.
fn field(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let end = bytes.iter().position(|b| *b == 0).ok_or(Malformed::Truncated)?;
    let (text, rest) = bytes.split_at_checked(end).ok_or(Malformed::Truncated)?;
    Ok((text, rest.get(1..).unwrap_or_default()))
}

fn request(bytes: &[u8]) -> Result<Request, Malformed> {
    let (name, mut rest) = field(bytes)?;
    if name.len() > MAX_NAME {
        return Err(Malformed::TooLong);
    }
    // Firmware that copies the NUL out of option 67 sends it, and then one of its own.
    if let Some((0, more)) = rest.split_first() {
        rest = more;
    }
    let (mode, mut rest) = field(rest)?;
    let mode = if mode.eq_ignore_ascii_case(b"octet") {
        Mode::Octet
    } else if mode.eq_ignore_ascii_case(b"netascii") {
        Mode::Netascii
    } else {
        Mode::Other
    };
    let mut options = Options::default();
    // Some ROMs pad the request: NULs or 0xff after the last option say nothing.
    while rest.iter().any(|b| !matches!(b, 0 | 0xff)) {
        let (key, after) = field(rest)?;
        let (value, after) = field(after)?;
        rest = after;
        options.take(key, value);
    }
    Ok(Request { name: name.to_vec(), mode, options })
}

impl Options {
    /// The first of two equal options counts: RFC 2347 allows each once.
    fn take(&mut self, key: &[u8], value: &[u8]) {
        let Some(value) = decimal(value) else { return };
        let within = |low: u64, high: u64| (low..=high).contains(&value).then_some(value);
        if key.eq_ignore_ascii_case(b"blksize") {
            let size = (value >= 8).then(|| u16::try_from(value.min(65_464)).ok()).flatten();
            self.blksize = self.blksize.or(size);
        } else if key.eq_ignore_ascii_case(b"tsize") {
            self.tsize = true;
        } else if key.eq_ignore_ascii_case(b"timeout") {
            self.timeout = self.timeout.or(within(1, 255).and_then(|v| u8::try_from(v).ok()));
        } else if key.eq_ignore_ascii_case(b"windowsize") {
            self.windowsize = self.windowsize.or(within(1, 65_535).and_then(|v| u16::try_from(v).ok()));
        }
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

/// What may be shown of bytes that a stranger sent.
pub(super) fn printable(text: &[u8]) -> String {
    let shown = |b: &u8| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '?' };
    text.iter().take(80).map(shown).collect()
}

/// The file name as the boot programs' folder knows it: no trailing 0xff (firmware that reads past
/// option 67), backslashes as slashes, no slash in front, no empty or `.` part. `None` for a name
/// that leaves the folder, or that is no printable text.
pub fn clean_name(name: &[u8]) -> Option<String> {
    let name = name.strip_suffix(b"\xff").unwrap_or(name);
    let text = std::str::from_utf8(name).ok()?.replace('\\', "/");
    if text.chars().any(char::is_control) {
        return None;
    }
    let parts: Vec<&str> = text.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if parts.is_empty() || parts.contains(&"..") {
        return None;
    }
    Some(parts.join("/"))
}

/// Appends a DATA packet to `out`. `block` is the 16-bit number on the wire.
pub fn data(block: u16, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&DATA.to_be_bytes());
    out.extend_from_slice(&block.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends an OACK that agrees to `options` to `out`; `size` is the answer to tsize.
pub fn oack(options: &Options, size: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&OACK.to_be_bytes());
    let mut put = |key: &str, value: u64| {
        out.extend_from_slice(key.as_bytes());
        out.push(0);
        out.extend_from_slice(value.to_string().as_bytes());
        out.push(0);
    };
    if let Some(v) = options.blksize {
        put("blksize", v.into());
    }
    if options.tsize {
        put("tsize", size);
    }
    if let Some(v) = options.timeout {
        put("timeout", v.into());
    }
    if let Some(v) = options.windowsize {
        put("windowsize", v.into());
    }
}

/// An ERROR packet.
pub fn error(code: Code, message: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 + message.len());
    out.extend_from_slice(&ERROR.to_be_bytes());
    out.extend_from_slice(&code.number().to_be_bytes());
    out.extend(message.bytes().filter(|b| *b != 0));
    out.push(0);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn read(datagram: &[u8]) -> Request {
        match parse_opening(datagram) {
            Ok(Opening::Read(r)) => r,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_what_edk2_asks() {
        let r = read(b"\0\x01snponly.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0");
        assert_eq!(clean_name(&r.name).as_deref(), Some("snponly.efi"));
        assert_eq!(r.mode, Mode::Octet);
        assert_eq!(
            r.options,
            Options { blksize: Some(1468), tsize: true, timeout: None, windowsize: Some(4) }
        );
    }

    #[test]
    fn tolerates_the_trailing_bytes_and_leading_slashes_of_real_firmware() {
        for datagram in [
            &b"\0\x01undionly.kpxe\xff\0octet\0"[..],
            b"\0\x01undionly.kpxe\0\0octet\0",
            b"\0\x01/undionly.kpxe\0OCTET\0",
            b"\0\x01\\undionly.kpxe\0octet\0\0\0\0\0",
            b"\0\x01//./undionly.kpxe\0octet\0\xff\xff",
        ] {
            assert_eq!(clean_name(&read(datagram).name).as_deref(), Some("undionly.kpxe"), "{datagram:?}");
        }
        assert_eq!(clean_name(b"\\EFI\\BOOT\\grubx64.efi").as_deref(), Some("EFI/BOOT/grubx64.efi"));
    }

    #[test]
    fn refuses_names_that_leave_the_folder() {
        for name in ["../etc/shadow", "a/../../b", "..", "", "/", "a\nb", "..\\x", "\\..\\..\\x"] {
            assert_eq!(clean_name(name.as_bytes()), None, "{name:?}");
        }
        assert_eq!(clean_name(b"\xfe\xfe"), None);
    }

    #[test]
    fn nonsense_options_are_declined_and_large_blocks_cut() {
        let r = read(b"\0\x01f\0octet\0blksize\x007\0windowsize\x000\0timeout\x00256\0multicast\0\0");
        assert!(r.options.is_empty());
        let r = read(b"\0\x01f\0octet\0BlkSize\x0099999\0blksize\x00512\0tsize\0-1\0windowsize\x0065535\0");
        assert_eq!(
            r.options,
            Options { blksize: Some(65_464), windowsize: Some(65_535), ..Options::default() }
        );
    }

    #[test]
    fn truncated_and_oversized_requests_are_malformed() {
        for datagram in
            [&b""[..], b"\0", b"\0\x01", b"\0\x01f", b"\0\x01f\0oct", b"\0\x01f\0octet\0blksize\0"]
        {
            assert_eq!(parse_opening(datagram), Err(Malformed::Truncated), "{datagram:?}");
        }
        let mut long = b"\0\x01f\0octet\0".to_vec();
        long.resize(513, 0);
        assert_eq!(parse_opening(&long), Err(Malformed::TooLong));
        assert_eq!(parse_opening(b"\0\x09"), Err(Malformed::Opcode(9)));
        assert_eq!(parse_opening(b"\0\x02f\0octet\0"), Ok(Opening::Write("f".into())));
    }

    proptest! {
        #[test]
        fn no_datagram_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), op in 0u8..8) {
            let mut packet = vec![0, op];
            packet.extend_from_slice(&bytes);
            for datagram in [&bytes[..], &packet[..]] {
                if let Ok(Opening::Read(r)) = parse_opening(datagram)
                    && let Some(name) = clean_name(&r.name)
                {
                    prop_assert!(!name.split('/').any(|p| matches!(p, "" | "." | "..")));
                }
                let _ = parse_reply(datagram);
            }
        }

        #[test]
        fn options_survive_a_round_trip_through_the_wire(
            blksize in proptest::option::of(8u16..=65_464),
            windowsize in proptest::option::of(1u16..),
            timeout in proptest::option::of(1u8..),
            tsize: bool,
        ) {
            let asked = Options { blksize, tsize, timeout, windowsize };
            let mut wire = Vec::new();
            oack(&asked, 77, &mut wire);
            let mut request = b"\0\x01f\0octet\0".to_vec();
            request.extend_from_slice(&wire[2..]);
            prop_assert_eq!(read(&request).options, asked);
        }
    }
}
