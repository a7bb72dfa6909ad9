//! What a boot asks for besides blobs, and what it reports.

use super::harness::*;
use pristine::{
    httpd::Settings,
    model::Digest,
    provisioner::{Report, TransferOutcome},
};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
};

#[test]
fn ovmfs_head_then_get_of_a_boot_program_on_one_connection() {
    let served = serve();
    let mut stream = served.connect();
    let mut ask = |method: &str, body: bool| {
        write!(stream, "{method} /nbp/snponly.efi HTTP/1.1\r\nHost: 198.18.0.1\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.windows(4).any(|w| w == b"\r\n\r\n") || (body && !answer.ends_with(b"an EFI program")) {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        String::from_utf8(answer).unwrap()
    };
    for answer in [ask("HEAD", false), ask("GET", true)] {
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-length: 14\r\n") && answer.contains("application/efi"), "{answer}");
        let empty =
            answer.split("\r\n\r\n").next().unwrap().lines().skip(1).any(|l| l.trim_end().ends_with(':'));
        assert!(!empty, "EDK2 chokes on a header without a value: {answer}");
    }
    assert_eq!(served.told(), Told::File("snponly.efi".into(), TransferOutcome::Probe));
    assert_eq!(served.told(), Told::File("snponly.efi".into(), TransferOutcome::Complete { bytes: 14 }));
    let code = |path| served.text(&["-o", "got", "-w", "%{http_code}", &served.url(path)]);
    assert_eq!(code("/nbp/shim_certificate_0.efi"), "404");
    assert_eq!(code("/nbp/forbidden.efi"), "403");
}

#[test]
fn a_script_is_made_per_machine_and_an_error_is_a_script_too() {
    let served = serve();
    let url = served.url("/boot/script?mac=52:54:00:00:00:01&manufacturer=A%20%26%20B&serial=&uuid=1");
    let script = served.text(&["-i", &url]);
    assert!(script.contains("cache-control: no-store\n") && script.contains("text/plain"), "{script}");
    let own = format!("#!ipxe\n# 52:54:00:00:00:01 A & B http://{}\n", served.addr);
    assert!(script.ends_with(&own), "{script}");
    for url in [served.url("/boot/script?mac=nonsense"), served.url("/boot/script?mac=a&mac=b")] {
        let script = served.text(&["-f", &url]);
        assert!(script.starts_with("#!ipxe\n") && script.contains("\necho Why: "), "{script}");
    }
}

#[test]
fn reports_need_a_token_and_sense_and_are_bounded() {
    let served = serve();
    let url = served.url("/boot/report");
    let post = |token: &str, body: &str| {
        let auth = format!("Authorization: Bearer {token}");
        served.text(&["-o", "got", "-w", "%{http_code}", "-H", &auth, "--data-binary", body, &url])
    };
    assert_eq!(post("good", r#"{"stage":"healthy"}"#), "204");
    assert_eq!(post("good", r#"{"failed":"no disk"}"#), "204");
    assert!(matches!(served.told(), Told::Report(Report::Stage { .. })));
    assert_eq!(served.told(), Told::Report(Report::Failed { failed: "no disk".into() }));
    assert_eq!(post("bad", r#"{"stage":"healthy"}"#), "401");
    assert_eq!(served.text(&["-o", "got", "-w", "%{http_code}", "-d", "{}", &url]), "401");
    assert_eq!(post("good", r#"{"stage":"rootfs","detail":"again"}"#), "409");
    assert_eq!(post("good", r#"{"stage":"flying"}"#), "400");
    assert_eq!(post("good", &format!(r#"{{"failed":"{}"}}"#, "x".repeat(5000))), "413");
    let mut stream = served.connect();
    let one =
        b"POST /boot/report HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bad\r\nContent-Length: 2\r\n\r\n{}";
    let flood: Vec<u8> = one.repeat(400);
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&flood));
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("HTTP/1.1 429 ") {
        let mut some = [0; 4096];
        let count = stream.read(&mut some).unwrap();
        assert!(count > 0, "no 429 among the answers");
        seen.extend_from_slice(&some[..count]);
    }
    drop(stream);
    let _ = writing.join();
}

#[test]
fn facts_need_a_token_and_are_bounded_and_what_is_not_known_is_passed_over() {
    let served = serve();
    let url = served.url("/boot/facts");
    let post = |token: &str, body: &str| {
        fs::write(served.folder.0.join("body"), body).unwrap();
        let auth = format!("Authorization: Bearer {token}");
        served.text(&["-o", "got", "-w", "%{http_code}", "-H", &auth, "--data-binary", "@body", &url])
    };
    assert_eq!(post("good", r#"{"vendor":"A","colour":"red","cpu":{"cores":2,"threads":4}}"#), "204");
    match served.told() {
        Told::Facts(facts) => {
            assert_eq!((facts.vendor.as_deref(), facts.cpu.unwrap().threads), (Some("A"), 4))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(post("dead", "{}"), "401");
    assert_eq!(served.text(&["-o", "got", "-w", "%{http_code}", "-d", "{}", &url]), "401");
    assert_eq!(post("good", r#"{"nics":[{"mac":"nonsense"}]}"#), "400");
    assert_eq!(post("good", &format!(r#"{{"vendor":"{}"}}"#, "x".repeat(200_000))), "413");
}

#[test]
fn a_question_for_orders_is_held_until_there_are_some_and_never_takes_the_places_of_those_that_boot() {
    let served = serve_with(Settings { max_connections: 8, ..Settings::default() });
    let url = served.url("/boot/orders");
    let ask = |token: &str, body: &str| {
        let auth = format!("Authorization: Bearer {token}");
        served.text(&["-w", " %{http_code}", "-H", &auth, "-d", body, &url])
    };
    assert_eq!(ask("go", r#"{"mac":"52:54:00:00:00:01"}"#), r#"{"order":"restart","why":"told to"} 200"#);
    assert!(ask("nobody", "{}").ends_with(" 401"));
    assert!(ask("go", r#"{"mac":7}"#).ends_with(" 400"));
    // A quarter of the places may be held.
    let waiting: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = served.connect();
            let request = "POST /boot/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wait\r\nContent-Length: 2\r\n\r\n{}";
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    let mut full = ask("wait", "{}");
    while full.ends_with(" 200") {
        // Asked before one of the two came in: it was held as long as any.
        full = ask("wait", "{}");
    }
    assert!(full.contains("too many machines wait") && full.ends_with(" 503"), "{full}");
    assert_eq!(served.text(&["-o", "got", "-w", "%{http_code}", &served.url("/healthz")]), "200");
    // The service ends: nobody is left without an answer.
    served.stop.send(true).unwrap();
    let answers = waiting.into_iter().map(|mut stream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answers: Vec<String> = answers.collect();
    assert!(answers.iter().all(|a| a.starts_with("HTTP/1.1 503 ")), "{answers:?}");
    assert!(answers.iter().any(|a| a.contains("restarting")), "{answers:?}");
}

#[test]
fn other_methods_and_paths_are_refused() {
    let served = serve();
    let digest = Digest::of(initramfs());
    let code = |method: &str, path: &str| {
        served.text(&["-X", method, "-o", "got", "-w", "%{http_code}", &served.url(path)])
    };
    assert_eq!(code("GET", "/healthz"), "200");
    assert_eq!(code("PUT", &format!("/blobs/{digest}")), "405");
    assert_eq!(code("GET", "/boot/report"), "405");
    assert_eq!(code("POST", "/boot/script"), "405");
    assert_eq!(code("GET", "/"), "404");
    assert_eq!(code("GET", "/api/v1/machines"), "404");
}
