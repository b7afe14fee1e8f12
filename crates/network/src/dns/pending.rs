//! A question that is on its way to a name server of the host.

const HEADER: usize = 12;
const TRUNCATED: u8 = 0x02;
const RESPONSE: u8 = 0x80;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
const FORMAT_ERROR: u8 = 1;
const SERVER_FAILURE: u8 = 2;

/// A guest's question as it came, and what is needed to hand it the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    query: Vec<u8>,
    /// Where the question section ends.
    question_end: usize,
    room: usize,
    edns: bool,
}

impl Pending {
    /// Takes a sound question; `None` when its name is not written out in full, as no client would.
    pub(super) fn new(query: &[u8], room: usize, edns: bool) -> Option<Pending> {
        let mut at = HEADER;
        loop {
            match query.get(at)? {
                0 => break,
                length @ 1..=63 => at += 1 + usize::from(*length),
                _ => return None,
            }
        }
        let question_end = at + 5; // the empty label, type, class
        (question_end <= query.len()).then(|| Pending { query: query.to_vec(), question_end, room, edns })
    }

    /// The question with another number.
    pub fn with_id(&self, id: u16) -> Vec<u8> {
        let mut query = self.query.clone();
        query[..2].copy_from_slice(&id.to_be_bytes());
        query
    }

    /// Whether `reply` answers this question as it was sent under the number `id`.
    pub fn is_answered_by(&self, id: u16, reply: &[u8]) -> bool {
        let (name, kind) = (HEADER..self.question_end - 4, self.question_end - 4..self.question_end);
        reply.get(..2) == Some(&id.to_be_bytes())
            && reply.get(2).is_some_and(|flags| flags & RESPONSE != 0)
            && reply.get(4..6) == Some(&[0, 1])
            // Some servers change the case of letters.
            && reply.get(name.clone()).is_some_and(|other| other.eq_ignore_ascii_case(&self.query[name]))
            && reply.get(kind.clone()) == Some(&self.query[kind])
    }

    /// Whether the server that sent `reply` could not do its part, so that another should be asked.
    pub fn is_failure(reply: &[u8]) -> bool {
        // Not a refusal or a name that does not exist, which are answers.
        reply.get(3).is_none_or(|flags| flags & 0x0f == SERVER_FAILURE)
    }

    /// Whether `reply` was cut off to fit into a datagram.
    pub fn is_truncated(reply: &[u8]) -> bool {
        reply.get(2).is_some_and(|flags| flags & TRUNCATED != 0)
    }

    /// Notes in `reply` that it was cut off.
    pub fn mark_truncated(reply: &mut [u8]) {
        if let Some(flags) = reply.get_mut(2) {
            *flags |= TRUNCATED;
        }
    }

    /// The answer as the guest gets it: with its own number, and cut off when it is longer than the guest takes.
    pub fn deliver(&self, mut reply: Vec<u8>) -> Vec<u8> {
        if reply.len() > self.room || reply.len() < HEADER {
            let flags = [reply.get(2).copied().unwrap_or(RESPONSE), reply.get(3).copied().unwrap_or_default()];
            return self.bare([flags[0] | TRUNCATED, flags[1]]);
        }
        reply[..2].copy_from_slice(&self.query[..2]);
        reply
    }

    /// The answer when no name server gave one.
    pub fn failure(&self) -> Vec<u8> {
        let desired = self.query[2] & RECURSION_DESIRED;
        self.bare([RESPONSE | desired, RECURSION_AVAILABLE | SERVER_FAILURE])
    }

    /// An answer of nothing but the question, and the sign of EDNS when the guest speaks it.
    fn bare(&self, flags: [u8; 2]) -> Vec<u8> {
        let mut reply = self.query[..self.question_end].to_vec();
        reply[2..4].copy_from_slice(&flags);
        reply[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(self.edns)]);
        if self.edns {
            let [high, low] = super::OUR_UDP.to_be_bytes();
            reply.extend_from_slice(&[0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]);
        }
        reply
    }
}

/// The answer to a message of which not more than the header can be read. At least 12 bytes must be given.
pub(super) fn format_error(message: &[u8]) -> Vec<u8> {
    let mut reply = vec![0; HEADER];
    reply[..2].copy_from_slice(&message[..2]);
    // The kind of operation and the wish for recursion are copied.
    reply[2] = RESPONSE | (message[2] & 0x79);
    reply[3] = FORMAT_ERROR;
    reply
}
