//! What the service sends, judged whole and not by how it begins.

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// All that a connection gave until its end: whole answers, one behind the other; or what is wrong with them.
pub fn answers(bytes: &[u8]) -> Result<Vec<Answer>, String> {
    let (mut all, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let broken = || format!("{} bytes of an answer that breaks off", rest.len());
        let (answer, len) = answer(rest)?.ok_or_else(broken)?;
        all.push(answer);
        rest = &rest[len..];
    }
    Ok(all)
}

/// The first answer, and how long it is with its head; nothing where not all of it is here.
pub fn answer(bytes: &[u8]) -> Result<Option<(Answer, usize)>, String> {
    let Some(head) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..head]).map_err(|error| format!("a head: {error}"))?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = status(first).ok_or_else(|| format!("a status line: {first:?}"))?;
    let mut length = None;
    for line in lines {
        let (name, value) = field(line).ok_or_else(|| format!("a field: {line:?}"))?;
        match name.to_ascii_lowercase().as_str() {
            "transfer-encoding" => return Err(format!("nothing here is sent in parts: {line:?}")),
            "content-length" if length.is_some() => return Err(format!("a second length: {line:?}")),
            "content-length" => length = Some(value.parse().map_err(|_| format!("a length: {line:?}"))?),
            _ => {}
        }
    }
    let length = match status {
        100..=199 | 204 | 304 => 0,
        _ => length.ok_or_else(|| format!("{status} has no length"))?,
    };
    let body = head + 4..head + 4 + length;
    let whole = bytes.get(body.clone()).map(|body| Answer { status, body: body.to_vec() });
    Ok(whole.map(|answer| (answer, body.end)))
}

fn status(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    let (code, why) = rest.split_once(' ')?;
    let code = code.parse().ok().filter(|n| code.len() == 3 && (100..600).contains(n))?;
    why.chars().all(|c| c.is_ascii_graphic() || c == ' ').then_some(code)
}

fn field(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    let named = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    (named && !value.chars().any(char::is_control)).then(|| (name, value.trim()))
}

/// A TFTP packet of a server.
#[derive(Debug)]
pub enum Packet<'a> {
    /// The number of a block.
    Data(u16),
    /// What is wrong.
    Error(u16),
    /// What is agreed to.
    Oack(Vec<(&'a str, usize)>),
}

/// A packet of a transfer of `file` in blocks of so many bytes; or why it can't be one.
pub fn packet<'a>(bytes: &'a [u8], file: &[u8], size: usize) -> Result<Packet<'a>, String> {
    let wrong = |what: &str| Err(format!("{what}: {bytes:?}"));
    match bytes {
        [0, 3, hi, lo, data @ ..] => {
            let block = u16::from_be_bytes([*hi, *lo]);
            let start = (usize::from(block) * size).checked_sub(size).filter(|start| *start <= file.len());
            let its = start.map(|start| &file[start..file.len().min(start + size)]);
            if its == Some(data) { Ok(Packet::Data(block)) } else { wrong("not the file's block") }
        }
        [0, 5, hi, lo, text @ .., 0] => {
            let code = u16::from_be_bytes([*hi, *lo]);
            let is_text = !text.is_empty() && text.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
            if is_text && code <= 8 { Ok(Packet::Error(code)) } else { wrong("an ERROR") }
        }
        [0, 6, fields @ .., 0] => match options(fields, file) {
            Some(options) => Ok(Packet::Oack(options)),
            None => wrong("an OACK"),
        },
        _ => wrong("no packet of a server"),
    }
}

/// Names and values, each option once and within what it may say.
fn options<'a>(fields: &'a [u8], file: &[u8]) -> Option<Vec<(&'a str, usize)>> {
    let fields: Vec<&str> = std::str::from_utf8(fields).ok()?.split('\0').collect();
    let mut options = Vec::new();
    for pair in fields.chunks(2) {
        let [name, value] = *pair else { return None };
        let number: usize = value.parse().ok().filter(|n: &usize| n.to_string() == value)?;
        let within = match name {
            // On Ethernet, in one piece.
            "blksize" => (8..=1_468).contains(&number),
            "tsize" => number == file.len(),
            "timeout" => (1..=255).contains(&number),
            "windowsize" => (1..=64).contains(&number),
            _ => false,
        };
        if !within || options.iter().any(|(n, _)| *n == name) {
            return None;
        }
        options.push((name, number));
    }
    Some(options)
}

#[test]
fn what_is_cut_or_has_more_than_it_says_is_no_reply() {
    let good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\nok";
    let both = [&good[..], good].concat();
    assert!(answers(&both).is_ok_and(|all| all.len() == 2 && all[1].body == b"ok"));
    assert!((1..good.len()).all(|at| answers(&good[..at]).is_err()));
    for bad in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nok",
        "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n X: y\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX: y\r\n\r\nok",
    ] {
        assert!(answers(bad.as_bytes()).is_err(), "{bad:?}");
    }
    let file: Vec<u8> = (0..20).collect();
    let data = |block: u8, bytes: &[u8]| [&[0, 3, 0, block], bytes].concat();
    assert!(matches!(packet(&data(2, &file[8..16]), &file, 8), Ok(Packet::Data(2))));
    assert!(matches!(packet(&data(3, &file[16..]), &file, 8), Ok(Packet::Data(3))));
    for bad in
        [data(0, &file[..8]), data(1, &file[..7]), data(1, &file[..9]), data(2, &file[..8]), data(4, &[])]
    {
        assert!(packet(&bad, &file, 8).is_err(), "{bad:?}");
    }
    let oack = b"\0\x06blksize\x00512\0tsize\x0020\0";
    assert!(matches!(packet(oack, &file, 8), Ok(Packet::Oack(options)) if options.len() == 2));
    assert!((1..oack.len()).all(|at| at == 14 || packet(&oack[..at], &file, 8).is_err()));
    let error = b"\0\x05\0\x01no such file\0";
    assert!(matches!(packet(error, &file, 8), Ok(Packet::Error(1))));
    assert!((1..error.len()).all(|at| packet(&error[..at], &file, 8).is_err()));
}
