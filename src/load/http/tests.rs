use std::net::TcpListener;
use std::thread;

use super::*;

#[test]
fn addresses_are_hosts_and_ports_and_nothing_else() {
    let url = |text: &str| Address::of_url(text).map(|address| address.url());
    for (given, wanted) in [
        ("http://localhost:8080", "http://localhost:8080"),
        ("localhost:8080/", "http://localhost:8080"),
        ("http://10.0.0.2/v1/", "http://10.0.0.2:80"),
        ("http://[::1]:9/proxy/v1", "http://[::1]:9/proxy"),
        ("http://a-b.example", "http://a-b.example:80"),
    ] {
        assert_eq!(url(given).as_deref(), Some(wanted), "{given}");
    }
    for none in [
        "https://localhost",
        "ftp://a",
        "http://",
        "http://a b",
        "http://a:99999",
        "http://a:x",
        "http://user@a",
        "http://a/?q",
        "http://a/\r\nx: y",
    ] {
        assert_eq!(url(none), None, "{none}");
    }
    assert_eq!(Address::new("a/b", 1), None);
    assert_eq!(Address::new("::1", 1).unwrap().url(), "http://[::1]:1");
}

#[test]
fn heads_say_how_long_a_body_is_and_whether_the_connection_stays() {
    let head = |text: &str| Head::parse(text).map(|head| (head.code, head.length, head.keeps));
    let cases = [
        ("HTTP/1.1 200 OK\r\n\r\n", Some((200, Length::All, true))),
        (
            "HTTP/1.1 200\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
            Some((200, Length::Bytes(5), false)),
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: Chunked\r\ncontent-length: 5\r\n\r\n",
            Some((200, Length::Chunks, false)),
        ),
        (
            "HTTP/1.1 204 None\r\n\r\n",
            Some((204, Length::Bytes(0), true)),
        ),
        ("HTTP/1.1 what is this\r\n\r\n", None),
        ("HTTP/1.1 20 OK\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", None),
    ];
    for (text, wanted) in cases {
        assert_eq!(head(text), wanted, "{text:?}");
    }
}

/// What a client reads of these bytes, with at most `limit`; and whether the connection stays.
fn body_of(bytes: &'static str, limit: u64) -> io::Result<(String, bool)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut seen = [0; 1024];
        let read = stream.read(&mut seen).unwrap();
        assert!(seen[..read].starts_with(b"GET / HTTP/1.1\r\nhost: a:1\r\n"));
        // In two parts, so that heads and chunks are cut somewhere.
        let (one, other) = bytes.split_at(bytes.len() / 2);
        stream.write_all(one.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(5));
        stream.write_all(other.as_bytes()).unwrap();
        // The connection stays until the client has looked at it.
        (stream, listener)
    });
    let connection = Connection::open(&[address], CONNECT).unwrap();
    let request = Address::new("a", 1).unwrap().request("GET", "/", None, "");
    let deadline = Instant::now() + Duration::from_secs(20);
    let asked = connection.ask(&request, limit, deadline);
    let held = server.join().unwrap();
    let mut response = asked.unwrap();
    let mut text = String::new();
    if response.body.left == Length::All {
        drop(held);
    }
    response.body.read_to_string(&mut text)?;
    let stays = response.body.into_connection();
    Ok((text, stays.is_some_and(|connection| connection.is_open())))
}

#[test]
fn bodies_are_read_to_their_ends_and_no_further() {
    macro_rules! chunked {
        ($rest:literal) => {
            concat!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                $rest
            )
        };
    }
    let read = |bytes, limit| body_of(bytes, limit).map_err(|error| error.kind());
    let whole = |text: &str| Ok((text.to_owned(), true));
    let ends = chunked!("3;x=y\r\nabc\r\n2\r\nde\r\n0\r\ntrailer: x\r\n\r\n");
    assert_eq!(read(ends, 100), whole("abcde"));
    let after_continue =
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
    assert_eq!(read(after_continue, 100), whole("hi"));
    let until_the_end = "HTTP/1.1 200 OK\r\n\r\nall of it";
    assert_eq!(
        read(until_the_end, 100),
        Ok(("all of it".to_owned(), false))
    );
    // More than was announced: the connection is of no more use.
    let more = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiho";
    assert_eq!(read(more, 100), Ok(("hi".to_owned(), false)));
    assert_eq!(read(ends, 4), Err(io::ErrorKind::QuotaExceeded));
    for broken in [
        chunked!("zz\r\n"),
        chunked!("1\r\nabc\r\n"),
        chunked!("fffffffffffffffff\r\n"),
    ] {
        assert_eq!(read(broken, 100), Err(io::ErrorKind::InvalidData));
    }
}
