//! The part of DHCP's message format (RFC 2131, 2; RFC 2132) that a server of fixed addresses needs.
//!
//! Our own because what guests send is hostile: the codec that we tried first (dhcproto 0.15) fails an assertion, and
//! so ends its thread, on an option 94 of another length than three.

use std::net::Ipv4Addr;

use model::Mac;

/// Where the options begin: behind the fixed fields and the cookie.
const OPTIONS: usize = 240;
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const ETHERNET: [u8; 2] = [1, 6];
const BROADCAST_FLAG: u8 = 0x80;
/// Some clients throw shorter messages away (RFC 1542, 2.1).
const SHORTEST: usize = 300;

const PAD: u8 = 0;
const REQUESTED_ADDRESS: u8 = 50;
const KIND: u8 = 53;
pub(super) const SERVER: u8 = 54;
pub(super) const CLIENT_ID: u8 = 61;
pub(super) const RAPID_COMMIT: u8 = 80;
const END: u8 = 255;

/// What a message is (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Ack = 5,
    Nak = 6,
    Inform = 8,
}

/// A client's question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question<'a> {
    pub(super) kind: Kind,
    /// The client's number for this exchange.
    pub(super) transaction: [u8; 4],
    pub(super) mac: Mac,
    /// The client cannot hear an answer to an address that it does not have yet.
    pub(super) wants_broadcast: bool,
    /// The address that the client has and uses; `0.0.0.0` for none.
    pub(super) current: Ipv4Addr,
    /// The address that it would like.
    pub(super) requested: Option<Ipv4Addr>,
    /// The server that it chose.
    pub(super) server: Option<Ipv4Addr>,
    /// By what it tells its answers from others'.
    pub(super) client_id: Option<&'a [u8]>,
    /// It takes an address without asking a second time.
    pub(super) rapid_commit: bool,
}

impl<'a> Question<'a> {
    /// Reads a message; `None` unless it is a question asked directly by an Ethernet client.
    pub(super) fn read(message: &'a [u8]) -> Option<Question<'a>> {
        let direct = message.get(24..28)? == [0; 4]; // no relay (giaddr)
        if message.first() != Some(&BOOT_REQUEST)
            || message.get(1..3)? != ETHERNET
            || !direct
            || message.get(236..OPTIONS)? != COOKIE
        {
            return None;
        }
        let option = |code| find(message.get(OPTIONS..)?, code);
        let address = |bytes: Option<&[u8]>| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes?).ok()?));
        let kind = match option(KIND)? {
            [1] => Kind::Discover,
            [3] => Kind::Request,
            [8] => Kind::Inform,
            // Declined or released, an address stays its NIC's; the rest are servers' messages.
            _ => return None,
        };
        Some(Question {
            kind,
            transaction: message.get(4..8)?.try_into().ok()?,
            mac: Mac(message.get(28..34)?.try_into().ok()?),
            wants_broadcast: message.get(10)? & BROADCAST_FLAG != 0,
            current: address(message.get(12..16))?,
            requested: address(option(REQUESTED_ADDRESS)),
            server: address(option(SERVER)),
            client_id: option(CLIENT_ID),
            rapid_commit: option(RAPID_COMMIT).is_some(),
        })
    }
}

/// The value of the first option with that code.
fn find(mut options: &[u8], code: u8) -> Option<&[u8]> {
    loop {
        match options {
            [] | [END, ..] => return None,
            [PAD, rest @ ..] => options = rest,
            [found, length, rest @ ..] => {
                let value = rest.get(..usize::from(*length))?;
                if *found == code {
                    return Some(value);
                }
                options = &rest[value.len()..];
            }
            [_] => return None,
        }
    }
}

/// A server's answer, written option by option.
#[derive(Debug)]
pub(super) struct Answer(Vec<u8>);

impl Answer {
    /// Starts the answer to `question`; `given` is the address that the client gets by it.
    pub(super) fn new(question: &Question<'_>, kind: Kind, given: Option<Ipv4Addr>) -> Answer {
        let mut bytes = vec![0; OPTIONS];
        bytes[0] = BOOT_REPLY;
        bytes[1..3].copy_from_slice(&ETHERNET);
        bytes[4..8].copy_from_slice(&question.transaction);
        bytes[10] = if question.wants_broadcast { BROADCAST_FLAG } else { 0 };
        if kind != Kind::Nak {
            bytes[12..16].copy_from_slice(&question.current.octets());
        }
        bytes[16..20].copy_from_slice(&given.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        bytes[28..34].copy_from_slice(&question.mac.0);
        bytes[236..OPTIONS].copy_from_slice(&COOKIE);
        let mut answer = Answer(bytes);
        answer.option(KIND, &[kind as u8]);
        answer
    }

    /// Appends an option. One of more than 255 bytes is left out: nothing that we say is that long.
    pub(super) fn option(&mut self, code: u8, value: &[u8]) {
        if let Ok(length) = u8::try_from(value.len()) {
            self.0.extend_from_slice(&[code, length]);
            self.0.extend_from_slice(value);
        }
    }

    /// The whole message.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.push(END);
        self.0.resize(self.0.len().max(SHORTEST), PAD);
        self.0
    }
}
