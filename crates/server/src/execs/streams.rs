//! What became of each stream of an exec or a console: who is connected, who left, who may come back.

use std::collections::BTreeMap;

use crate::pumps::End;

/// A stream that was connected at least once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Connected { resumes: bool },
    Gone { resumes: bool },
    Complete,
}

/// All streams of one.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams {
    links: BTreeMap<&'static str, Link>,
    /// Those that carry output.
    outputs: &'static [&'static str],
}

impl Streams {
    pub(super) fn new(outputs: &'static [&'static str]) -> Streams {
        Streams { links: BTreeMap::new(), outputs }
    }

    /// Connects a stream; false when it was connected before and may not be again.
    pub(super) fn connect(&mut self, name: &'static str, resumes: bool) -> bool {
        let may = match self.links.get(name) {
            None => true,
            Some(Link::Connected { .. } | Link::Gone { resumes: false }) => false,
            // The end of a complete one may not have arrived.
            Some(Link::Gone { resumes: true } | Link::Complete) => resumes,
        };
        if may {
            self.links.insert(name, Link::Connected { resumes });
        }
        may
    }

    pub(super) fn disconnect(&mut self, name: &'static str, end: End) {
        let resumes = self.links.get(name) == Some(&Link::Connected { resumes: true });
        let link = match end {
            End::Complete => Link::Complete,
            End::Left => Link::Gone { resumes: false },
            End::Gone => Link::Gone { resumes },
        };
        self.links.insert(name, link);
    }

    pub(super) fn is_connected(&self, name: &str) -> bool {
        matches!(self.links.get(name), Some(Link::Connected { .. }))
    }

    pub(super) fn is_any_connected(&self) -> bool {
        self.links.values().any(|link| matches!(link, Link::Connected { .. }))
    }

    pub(super) fn is_output_connected(&self) -> bool {
        self.outputs.iter().any(|name| self.is_connected(name))
    }

    /// No stream was ever connected.
    pub(super) fn is_untouched(&self) -> bool {
        self.links.is_empty()
    }

    /// A stream was left before its end.
    pub(super) fn is_any_gone(&self) -> bool {
        self.links.values().any(|link| matches!(link, Link::Gone { .. }))
    }

    /// A client that went away said that it can come back, and did not say that it leaves.
    pub(super) fn may_come_back(&self) -> bool {
        let has = |resumes| self.links.values().any(|link| *link == Link::Gone { resumes });
        has(true) && !has(false)
    }

    /// All output was carried over to its end, or never will be.
    pub(super) fn is_drained(&self) -> bool {
        let over = [Some(&Link::Complete), Some(&Link::Gone { resumes: false })];
        self.outputs.iter().all(|name| over.contains(&self.links.get(name)))
    }

    /// All output was carried over to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.outputs.iter().all(|name| self.links.get(name) == Some(&Link::Complete))
    }

    /// Nobody is connected, though there may be something to say.
    pub(super) fn is_alone(&self) -> bool {
        !self.is_any_connected() && (!self.is_complete() || self.is_any_gone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piped() -> Streams {
        Streams::new(&["1", "2"])
    }

    #[test]
    fn a_secret_is_good_once_unless_its_client_can_come_back() {
        let mut streams = piped();
        assert!(streams.connect("1", false) && !streams.connect("1", false) && !streams.connect("1", true));
        streams.disconnect("1", End::Gone);
        assert!(!streams.connect("1", false) && !streams.connect("1", true));
        assert!(streams.connect("2", true) && !streams.connect("2", true));
        streams.disconnect("2", End::Gone);
        assert!(!streams.connect("2", false) && streams.connect("2", true));
    }

    #[test]
    fn who_said_farewell_does_not_come_back() {
        let mut streams = Streams::new(&["0"]);
        for name in ["0", "control"] {
            assert!(streams.connect(name, true));
        }
        streams.disconnect("control", End::Gone);
        assert!(!streams.is_alone() && streams.may_come_back());
        streams.disconnect("0", End::Left);
        assert!(streams.is_alone() && !streams.may_come_back() && streams.is_any_gone());
    }

    #[test]
    fn a_program_whose_output_arrived_to_its_end_is_not_alone() {
        let mut streams = piped();
        for name in ["1", "2"] {
            assert!(streams.connect(name, false));
            assert!(!streams.is_alone());
            streams.disconnect(name, End::Complete);
        }
        assert!(!streams.is_alone() && streams.is_drained());
    }
}
