//! Namespaces that live on without a process: files that helpers bind them to, and a note beside each.
//!
//! ```text
//! <runtime>/ns/<id>.<kind>         the namespace
//! <runtime>/ns/<id>.<kind>.note    "1 <number> <name at /run/netns, or ->"
//! /run/netns/<name>                the namespace once more, where that was asked for
//! ```
//!
//! The note tells which namespace it was, so that one that lost its pin and that a guest still lives in is found again; and
//! what at `/run/netns` is ours. It is written before anything is bound there: what was there before is somebody else's.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::StepError;
use model::{InstanceId, NamespaceKind, PinId, PinSeen, PinSource, PinSpec};
use runtime::pin::{PinOrder, namespace_at};

use super::spawn::Spawn;
use super::{launch, order, words};

/// Where ip-netns(8) looks for network namespaces by name.
const NETNS: &str = "/run/netns";

/// The pins of this daemon.
#[derive(Debug)]
pub(super) struct Pins {
    directory: PathBuf,
    spawn: Arc<Spawn>,
}

/// What is noted of a pin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Note {
    inode: u64,
    netns: Option<String>,
}

impl Note {
    fn parse(text: &str) -> Option<Note> {
        let mut words = text.split_whitespace();
        let version = words.next()?;
        let (inode, netns) = (words.next()?.parse().ok()?, words.next()?);
        (version == "1").then(|| Note { inode, netns: (netns != "-").then(|| netns.to_owned()) })
    }

    fn text(&self) -> String {
        format!("1 {} {}\n", self.inode, self.netns.as_deref().unwrap_or("-"))
    }
}

/// Number of the namespace that a process lives in.
fn namespace_of(pid: u32, kind: NamespaceKind) -> Option<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/{}", kind.as_str())).ok().map(|found| found.ino())
}

fn link_of(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}

impl Pins {
    pub(super) fn new(runtime_dir: &Path, spawn: Arc<Spawn>) -> Pins {
        Pins { directory: runtime_dir.join("ns"), spawn }
    }

    /// The file of a pin.
    pub(super) fn file(&self, pin: PinId) -> PathBuf {
        self.directory.join(pin.to_string())
    }

    fn note_file(&self, pin: PinId) -> PathBuf {
        self.directory.join(format!("{pin}.note"))
    }

    fn note(&self, pin: PinId) -> Option<Note> {
        std::fs::read_to_string(self.note_file(pin)).ok().and_then(|text| Note::parse(&text))
    }

    fn write(&self, pin: PinId, note: &Note) -> std::io::Result<()> {
        let (path, partial) = (self.note_file(pin), self.directory.join(format!("{pin}.new")));
        std::fs::write(&partial, note.text())?;
        std::fs::rename(partial, path)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Every pin; one of which there is only a part, too.
    pub(super) fn seen(&self) -> BTreeMap<PinId, PinSeen> {
        let pin = |name: String| name.strip_suffix(".note").unwrap_or(&name).parse::<PinId>().ok();
        self.names().into_iter().filter_map(pin).map(|pin| (pin, self.look(pin))).collect()
    }

    fn look(&self, pin: PinId) -> PinSeen {
        let inode = namespace_at(self.file(pin));
        let netns = self.note(pin).and_then(|note| note.netns);
        let is_there = |name: &String| inode.is_some() && namespace_at(link_of(name)) == inode;
        PinSeen { inode, netns: netns.filter(is_there) }
    }

    /// Those by which the network of an instance persists.
    pub(super) fn of(&self, id: InstanceId) -> BTreeMap<NamespaceKind, PinSeen> {
        let kinds = [NamespaceKind::Net, NamespaceKind::User].into_iter();
        let pins = kinds.map(|kind| PinId { of: id.0, kind });
        let there = pins.filter(|pin| self.file(*pin).exists() || self.note_file(*pin).exists());
        there.map(|pin| (pin.kind, self.look(pin))).collect()
    }

    /// Files beside the pins that belong to none.
    pub(super) fn strays(&self) -> Vec<PathBuf> {
        let is_ours = |name: &String| name.strip_suffix(".note").unwrap_or(name).parse::<PinId>().is_ok();
        self.names().into_iter().filter(|name| !is_ours(name)).map(|name| self.directory.join(name)).collect()
    }

    /// Has a namespace pinned, and at `/run/netns` as wished. `guests` are the inits that run, with their start times.
    pub(super) async fn pin(&self, spec: &PinSpec, guests: &[(InstanceId, u32, u64)]) -> Result<(), StepError> {
        let because = |e: &(dyn std::error::Error + 'static)| words::because("pin_namespace", e);
        super::make_dir(&self.directory, 0o711).map_err(|e| because(&e))?;
        let note = self.note(spec.pin).unwrap_or_default();
        if note.netns != spec.netns
            && let Some(name) = &spec.netns
            && link_of(name).symlink_metadata().is_ok()
        {
            let text = format!("{} is there already and is somebody else's", link_of(name).display());
            let hint = Some(format!("choose another name, or remove it: ip netns delete {name}"));
            return Err(StepError { hint, ..engine::step_error("pin_namespace", text) });
        }
        let mut order = self.order(spec.pin);
        self.source(spec, &note, guests, &mut order)?;
        if note.netns != spec.netns {
            order.unlink = note.netns.as_deref().map(|name| link_of(name).display().to_string()).unwrap_or_default();
            order.inode = note.inode;
        }
        // What is bound from here on is known to be ours.
        let noted = Note { netns: spec.netns.clone().or(note.netns), ..note };
        self.write(spec.pin, &noted).map_err(|e| because(&e))?;
        order.link = spec.netns.as_deref().map(|name| link_of(name).display().to_string()).unwrap_or_default();
        self.help("pin_namespace", &order).await?;
        let inode = namespace_at(self.file(spec.pin));
        let inode = inode.ok_or_else(|| engine::step_error("pin_namespace", "the namespace is not there"))?;
        self.write(spec.pin, &Note { inode, netns: spec.netns.clone() }).map_err(|e| because(&e))
    }

    /// Where the namespace is to be had: the same one as before where it still lives, else what the specification says.
    fn source(
        &self,
        spec: &PinSpec,
        note: &Note,
        guests: &[(InstanceId, u32, u64)],
        order: &mut PinOrder,
    ) -> Result<(), StepError> {
        let lives =
            guests.iter().find(|(_, pid, _)| note.inode != 0 && namespace_of(*pid, spec.pin.kind) == Some(note.inode));
        let link = note.netns.as_deref().map(link_of).filter(|link| namespace_at(link) == Some(note.inode));
        match (&spec.source, lives, link) {
            (_, Some((_, pid, start)), _) => (order.pid, order.start) = (*pid, *start),
            (_, None, Some(link)) => order.path = link.display().to_string(),
            (PinSource::Users(ids), ..) => (order.id_base, order.id_count) = (ids.base, ids.count),
            (PinSource::New(users), ..) => {
                order.users = users.map(|users| self.file(users).display().to_string()).unwrap_or_default();
            }
            (PinSource::Path(path), ..) => order.path.clone_from(path),
            (PinSource::Instance(id), ..) => {
                let guest = guests.iter().find(|(of, ..)| of == id);
                let (_, pid, start) =
                    guest.ok_or_else(|| engine::step_error("pin_namespace", "the instance does not run"))?;
                (order.pid, order.start) = (*pid, *start);
            }
        }
        Ok(())
    }

    fn order(&self, pin: PinId) -> PinOrder {
        let kind = launch::clone_bits([pin.kind]);
        PinOrder { file: self.file(pin).display().to_string(), kind, ..PinOrder::default() }
    }

    /// Lets a pinned namespace go.
    pub(super) async fn unpin(&self, pin: PinId) -> Result<(), StepError> {
        let note = self.note(pin).unwrap_or_default();
        if !self.file(pin).exists() && !self.note_file(pin).exists() {
            return Ok(());
        }
        let unlink = note.netns.map(|name| link_of(&name).display().to_string()).unwrap_or_default();
        let inode = namespace_at(self.file(pin)).unwrap_or(note.inode);
        self.help("unpin_namespace", &PinOrder { unlink, inode, remove: true, ..self.order(pin) }).await?;
        match std::fs::remove_file(self.note_file(pin)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(words::because("unpin_namespace", &e)),
            _ => Ok(()),
        }
    }

    /// Has a helper do what only it may, and hears what came of it.
    async fn help(&self, step: &str, order: &PinOrder) -> Result<(), StepError> {
        order::give(&self.spawn, step, "pin", order).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_as_they_are_written_and_nothing_else_is_one() {
        for note in [Note { inode: 4_026_531_840, netns: Some("blue".into()) }, Note { inode: 1, netns: None }] {
            assert_eq!(Note::parse(&note.text()), Some(note));
        }
        for wrong in ["", "1", "1 7", "2 7 -", "1 x -"] {
            assert_eq!(Note::parse(wrong), None, "{wrong}");
        }
    }
}
