//! Blobs: whole, in parts, one after the other.

use super::harness::*;
use pristine::{
    httpd::{Settings, Turns},
    model::{AttemptId, Digest},
};
use pristine_signature::{SecretKey, Zeroizing};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
};

#[test]
fn an_image_s_signatures_come_one_behind_the_other_and_not_those_of_others() {
    let served = serve_image(Settings::default(), false);
    let ask = |image: &str| {
        served.text(&["-w", "%{http_code}", &served.url(&format!("/images/{image}/signatures"))])
    };
    assert_eq!(ask(&served.image.to_string()), "200");
    let mut all = String::new();
    for n in 1..=2 {
        let key = SecretKey::new(&Zeroizing::new([n; 32]), [n; 8]).unwrap();
        let signature = key.sign(b"manifest", "timestamp:1");
        served.images.keep_signature(served.image, &signature).unwrap();
        all += &signature.to_string();
    }
    assert_eq!(ask(&served.image.to_string()), all + "200");
    assert_eq!(ask(&Digest::of(b"no image").to_string()), "no such image\n404");
    assert!(ask("web:1").ends_with("404"));
}

#[test]
fn a_blob_is_fetched_whole_and_its_boot_is_told_when_the_last_byte_is_out() {
    let served = serve_big();
    let (kernel, digest) = kernel();
    let url = served.url(&format!("//blobs//{digest}/vmlinuz?boot=00000000000000ab"));
    let said = served.text(&["-o", "got", "-w", "%{http_code} %{size_download}", &url]);
    assert_eq!(said, format!("200 {KERNEL}"));
    assert!(fs::read(served.folder.0.join("got")).unwrap() == *kernel);
    assert_eq!(served.told(), Told::Blob(AttemptId(0xab), *digest, true));
    // Where the ending of the name counts, the boot is a part of the path.
    let url = served.url(&format!("/blobs/{digest}/00000000000000ac/rootfs.squashfs"));
    assert_eq!(served.text(&["-o", "got", "-w", "%{http_code}", &url]), "200");
    assert_eq!(served.told(), Told::Blob(AttemptId(0xac), *digest, true));
    let head = served.text(&["-I", &served.url(&format!("/blobs/{digest}?boot=00000000000000ab"))]);
    for field in [
        "HTTP/1.1 200 OK\n",
        &format!("etag: \"{digest}\"\n"),
        &format!("content-length: {KERNEL}\n"),
        "accept-ranges: bytes\n",
        "immutable\n",
        "content-type: application/octet-stream\n",
    ] {
        assert!(head.contains(field), "no {field:?} in {head}");
    }
    let image = served.image;
    let manifest = served.curl(&[&served.url(&format!("/blobs/{image}"))]);
    assert_eq!(Digest::of(&manifest), image, "init fetches the manifest as a blob");
    assert!(served.told.try_recv().is_err(), "a HEAD fetches nothing");
}

#[test]
fn roots_are_sent_to_some_at_a_time_and_the_others_wait_or_are_told_when_to_ask() {
    let served =
        serve_image(Settings { turns: Turns { in_all: 2, per_rack: 1 }, ..Settings::default() }, true);
    let path = |boot: u64| format!("/blobs/{}?boot={boot:016x}", kernel().1);
    let begin = |boot: u64| {
        let mut stream = served.connect();
        write!(stream, "GET {} HTTP/1.1\r\nHost: x\r\nPrefer: wait=20\r\n\r\n", path(boot)).unwrap();
        stream
    };
    let begun = |stream: &mut TcpStream| {
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
    };
    // More than the sockets hold: it goes on for as long as nobody reads on.
    let mut first = begin(0x11);
    begun(&mut first);
    let impatient = |boot: u64| {
        let url = served.url(&path(boot));
        served.text(&["-D", "-", "-o", "got", "-H", "Prefer: respond-async, wait=0", &url])
    };
    let said = impatient(0x12);
    assert!(
        said.starts_with("HTTP/1.1 503 ") && said.contains("\nretry-after: "),
        "its rack is full: {said}"
    );
    let mut other = begin(0x21);
    begun(&mut other);
    let mut third = begin(0x31);
    // Who knows nothing of turns, or fetches something else, is served at once.
    for url in [path(0x100), format!("/blobs/{}", kernel().1), path(0x12)] {
        assert_eq!(served.text(&["-o", "got", "-w", "%{http_code}", &served.url(&url)]), "200");
    }
    // So is a piece of a streamed root that is read now; the rest of it comes in its turn.
    let piece = |boot: u64, more: &[&str]| {
        let url = served.url(&path(boot));
        served.text(&[&["-o", "got", "-w", "%{http_code}", "-r", "131072-262143", &url], more].concat())
    };
    assert_eq!(piece(0x12, &[]), "206");
    assert_eq!(piece(0x12, &["-H", "Prefer: wait=0"]), "503");
    drop(other);
    begun(&mut third);
    drop((first, third));
    while !impatient(0x12).starts_with("HTTP/1.1 200 ") {}
}

#[test]
fn curl_resumes_a_blob_that_broke_off() {
    let served = serve_big();
    let (kernel, digest) = kernel();
    fs::write(served.folder.0.join("got"), &kernel[..5_000_001]).unwrap();
    let url = served.url(&format!("/blobs/{digest}?boot=0000000000000001"));
    let said = served.text(&["-C", "-", "-o", "got", "-w", "%{http_code} %{size_download}", &url]);
    assert_eq!(said, format!("206 {}", KERNEL - 5_000_001));
    assert!(fs::read(served.folder.0.join("got")).unwrap() == *kernel);
    assert_eq!(served.told(), Told::Blob(AttemptId(1), *digest, true), "its end is out: it is whole now");
}

#[test]
fn ranges_one_and_many_and_none() {
    let served = serve();
    let url = served.url(&format!("/blobs/{}", Digest::of(initramfs())));
    let part = served.text(&["-i", "-r", "10-15", &url]);
    assert!(part.starts_with("HTTP/1.1 206 ") && part.ends_with("\n\nabcdef"), "{part}");
    assert!(
        part.contains("content-range: bytes 10-15/36\n") && part.contains("content-length: 6\n"),
        "{part}"
    );
    assert_eq!(served.text(&["-r", "-4", &url]), "wxyz");

    let many = served.text(&["-i", "-r", "0-1,34-", &url]);
    let (head, body) = many.split_once("\n\n").unwrap();
    let boundary = head.split_once("multipart/byteranges; boundary=").unwrap().1.lines().next().unwrap();
    let part = |range: &str, bytes: &str| {
        format!(
            "\n--{boundary}\nContent-Type: application/octet-stream\nContent-Range: bytes {range}/36\n\n{bytes}"
        )
    };
    assert_eq!(body, format!("{}{}\n--{boundary}--\n", part("0-1", "01"), part("34-35", "yz")));

    let beyond = served.text(&["-i", "-r", "36-", &url]);
    assert!(
        beyond.starts_with("HTTP/1.1 416 ") && beyond.contains("content-range: bytes */36\n"),
        "{beyond}"
    );
    let flood = vec!["0-0"; 17].join(",");
    assert_eq!(served.curl(&["-r", &flood, &url]), initramfs());
    assert_eq!(served.curl(&["-r", "0-,0-,0-", &url]), initramfs());
}

#[test]
fn conditions_spare_the_transfer() {
    let served = serve();
    let digest = Digest::of(initramfs());
    let url = served.url(&format!("/blobs/{digest}"));
    let code = |args: &[&str]| served.text(&[args, &["-o", "got", "-w", "%{http_code}", &url]].concat());
    assert_eq!(code(&["-H", &format!("If-None-Match: \"{digest}\"")]), "304");
    assert_eq!(code(&["-H", "If-None-Match: \"other\""]), "200");
    assert_eq!(code(&["-H", "If-Match: \"other\""]), "412");
    assert_eq!(code(&["-r", "0-1", "-H", &format!("If-Range: \"{digest}\"")]), "206");
    assert_eq!(code(&["-r", "0-1", "-H", "If-Range: \"other\""]), "200");
}

#[test]
fn a_blob_of_the_wrong_size_or_an_unknown_one_is_never_a_200() {
    let served = serve();
    let digest = Digest::of(initramfs());
    let url = served.url(&format!("/blobs/{digest}"));
    let path = served.images.blobs().path(digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"short").unwrap();
    let said = served.text(&["-i", &url]);
    assert!(said.starts_with("HTTP/1.1 500 ") && said.contains(&digest.to_string()), "{said}");
    for path in [format!("/blobs/{}", Digest::of(b"x")), "/blobs/../../etc/passwd".into(), "/blobs/zz".into()]
    {
        let code = served.text(&["--path-as-is", "-o", "got", "-w", "%{http_code}", &served.url(&path)]);
        assert_eq!(code, "404", "{path}");
    }
}

#[test]
fn a_client_that_goes_away_in_the_middle_has_no_whole_blob() {
    let served = serve_big();
    let digest = kernel().1;
    let mut stream = served.connect();
    write!(stream, "GET /blobs/{digest}?boot=0000000000000002 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut some = vec![0; 100_000];
    stream.read_exact(&mut some).unwrap();
    drop(stream);
    assert_eq!(served.told(), Told::Blob(AttemptId(2), digest, false));
}
