//! Names that the host's name servers know.

mod lab;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use lab::Host;
use lab::served::{Served, ask, ask_by_stream, guard, question, reply_with, serve_datagrams, told, upstream};

#[test]
fn long_answers_come_whole_by_tcp_and_cut_by_udp() {
    let mut host = Host::new();
    guard(&host);
    let guest = host.guest(2);
    // Like real ones, the name server cuts its datagrams and has the whole answer at the same port by TCP.
    let datagrams = host.space.udp("127.0.0.53:0");
    datagrams.set_read_timeout(None).expect("no timeout");
    let address = datagrams.local_addr().expect("an address");
    let streams = host.space.listen(address);
    std::thread::spawn(move || {
        serve_datagrams(&datagrams, |question| {
            let mut cut = question.to_vec();
            cut[2] |= 0x82;
            cut
        });
    });
    std::thread::spawn(move || serve_long_answers(&streams));
    let served = Served::new(&host, &[address]);

    let cut = ask(&guest.space, "10.9.1.1:53", &question("example.org", 1));
    assert_eq!((cut[2] & 2, cut.len()), (2, question("example.org", 1).len()));
    for server in ["10.9.1.1:53", "[fd00:9:1::1]:53"] {
        let server: SocketAddr = server.parse().expect("address");
        let mut stream = guest.space.run(move || TcpStream::connect(server).expect("a connection"));
        let whole = ask_by_stream(&mut stream, &question("example.org", 1)).expect("an answer");
        assert_eq!((whole[..2].to_vec(), whole[2] & 2, whole.len()), (vec![1, 2], 0, 3000));
        let own = ask_by_stream(&mut stream, &question("web2", 1)).expect("a second answer");
        assert_eq!(told(&own), (0, Ipv4Addr::new(10, 9, 1, 2)));
    }
    assert!(served.gateway(|gateway| gateway.degraded().is_empty()));
}

fn serve_long_answers(streams: &TcpListener) {
    for stream in streams.incoming() {
        let mut stream = stream.expect("a connection");
        let mut length = [0; 2];
        stream.read_exact(&mut length).expect("a question");
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question).expect("a question");
        question[2] |= 0x80;
        question.resize(3000, 0);
        stream.write_all(&[&3000u16.to_be_bytes(), &question[..]].concat()).expect("sent");
    }
}

#[test]
fn the_next_server_is_asked_when_one_fails_and_the_guest_is_told_when_all_do() {
    let mut host = Host::new();
    guard(&host);
    let guest = host.guest(2);
    let refused: SocketAddr = "127.0.0.99:53".parse().expect("address");
    let failing = upstream(&host, |question| {
        let mut reply = question.to_vec();
        reply[2] |= 0x80;
        reply[3] |= 2;
        reply
    });
    // Answers to other questions and with wrong numbers first: none of them counts.
    let right = upstream(&host, |question| reply_with(question, [192, 0, 2, 7]));
    let served = Served::new(&host, &[refused, failing, right]);
    let answer = ask(&guest.space, "10.9.1.1:53", &question("example.org", 1));
    assert_eq!(told(&answer), (0, Ipv4Addr::new(192, 0, 2, 7)));
    served.gateway(move |gateway| gateway.set_upstreams(&[refused, failing]));
    assert_eq!(told(&ask(&guest.space, "10.9.1.1:53", &question("example.org", 1))).0, 2);
    // The gateway never asks itself.
    served.gateway(|gateway| gateway.set_upstreams(&["10.9.1.1:53".parse().expect("address")]));
    assert_eq!(told(&ask(&guest.space, "10.9.1.1:53", &question("example.org", 1))).0, 2);
    assert_eq!(served.counters().forwarded, 3);
}

#[test]
fn forged_answers_do_not_count() {
    let mut host = Host::new();
    guard(&host);
    let guest = host.guest(2);
    let socket = host.space.udp("127.0.0.53:0");
    socket.set_read_timeout(None).expect("no timeout");
    let address = socket.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        let mut numbers = Vec::new();
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let asked = &buffer[..length];
            numbers.push((asked[..2].to_vec(), from.port()));
            let mut forged = reply_with(asked, [6, 6, 6, 6]);
            forged[0] ^= 1;
            let mut other = reply_with(asked, [6, 6, 6, 6]);
            other[14] ^= 1;
            // The last byte of the right answer tells whether numbers and ports were ever the same.
            let fresh = numbers.iter().filter(|number| *number == numbers.last().expect("one")).count() == 1;
            let right = reply_with(asked, [192, 0, 2, u8::from(fresh)]);
            for reply in [forged, other, right] {
                socket.send_to(&reply, from).expect("sent");
            }
        }
    });
    let _served = Served::new(&host, &[address]);
    for _ in 0..20 {
        let answer = ask(&guest.space, "10.9.1.1:53", &question("example.org", 1));
        assert_eq!(told(&answer), (0, Ipv4Addr::new(192, 0, 2, 1)));
    }
}
