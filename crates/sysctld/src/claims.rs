//! What a daemon takes of the host for good, so that two of them never take the same: ids, a subnet, a bridge's name.
//!
//! Each daemon has a file `/run/lock/sysctl/<mark>` that says what it took, and holds a lock on it while it lives; they are read
//! and written under one more lock. A file whose daemon is dead and whose state directory is gone counts for nothing. What was
//! taken is also in the database, and holds over reboots.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use engine::{Cure, Damage};
use model::{Cidr, IdMap, NetworkSpec};
use network::link;
use network::netlink::Socket;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use store::{Op, Store, Txn};

use crate::crash;

const DIRECTORY: &str = "/run/lock/sysctl";

const LOCK: &str = "lock";

/// Kind and key of the document.
const DOCUMENT: (&str, &str) = ("daemon", "claim");

/// What one daemon took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    state_dir: PathBuf,
    /// The first 65,536 belong to the image child.
    ids: IdMap,
    /// Ranges of before, which instances may still have.
    #[serde(default)]
    former_ids: Vec<IdMap>,
    bridge: String,
    ipv4: Option<Cidr>,
    ipv6: Cidr,
}

impl Claim {
    /// Ids of the child that unpacks and builds images.
    pub(crate) fn image_ids(&self) -> IdMap {
        IdMap { count: IdMap::ORDINARY, ..self.ids }
    }

    /// Ids of instances.
    pub(crate) fn instance_ids(&self) -> IdMap {
        IdMap { base: self.ids.base + IdMap::ORDINARY, count: self.ids.count - IdMap::ORDINARY }
    }

    /// The network that a first start makes.
    pub(crate) fn network(&self) -> Option<NetworkSpec> {
        Some(NetworkSpec {
            name: self.bridge.parse().ok()?,
            ipv4: self.ipv4,
            ipv6: Some(self.ipv6),
            nat: true,
            mtu: None,
            domain: "sysctl".into(),
            chain: None,
        })
    }

    fn all_ids(&self) -> impl Iterator<Item = IdMap> {
        std::iter::once(self.ids).chain(self.former_ids.iter().copied())
    }
}

/// A claim while its daemon lives: whether it still stands, and what it runs into.
#[derive(Debug, Clone)]
pub(crate) struct Claimed {
    mark: String,
    claim: Claim,
    /// The file, locked for as long as the daemon lives.
    held: Arc<Mutex<File>>,
}

impl Claimed {
    /// `held`: as [`take`] returns it.
    pub(crate) fn new(mark: &str, claim: &Claim, held: File) -> Claimed {
        Claimed { mark: mark.to_owned(), claim: claim.clone(), held: Arc::new(Mutex::new(held)) }
    }

    /// Ids of the image child.
    pub(crate) fn image_ids(&self) -> IdMap {
        self.claim.image_ids()
    }

    /// Writes the claim again where somebody removed it.
    pub(crate) fn renew(&self) -> io::Result<()> {
        if self.path().exists() {
            return Ok(());
        }
        let _lock = lock()?;
        let held = write(&self.mark, &serde_json::to_string(&self.claim)?)?;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        Ok(())
    }

    fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.mark)
    }

    /// What is wrong with it.
    pub(crate) fn damage(&self) -> Vec<Damage> {
        let mut found = Vec::new();
        let path = self.path().display().to_string();
        let mut wrong = |kind, object: String, text: String, cure| {
            found.push(Damage { kind, object, text, of: None, cure });
        };
        if !self.path().exists() {
            wrong("claim file", path, "is gone: another daemon may take the same ids".into(), Cure::Loop);
        }
        let partial = self.path().with_extension("new");
        if partial.exists() {
            wrong("partial file", partial.display().to_string(), "belongs to nothing".into(), Cure::Remove(partial));
        }
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut others: Vec<(String, IdMap)> = Vec::new();
        for file in ["/etc/subuid", "/etc/subgid"] {
            others.extend(plan::subordinate_ids(&text(file)).into_iter().map(|ids| (file.to_owned(), ids)));
        }
        for other in fs::read_dir(DIRECTORY).into_iter().flatten().flatten() {
            let is_other = !is_ours(&other.file_name(), &self.mark) && other.file_name() != LOCK;
            let text = fs::read_to_string(other.path()).unwrap_or_default();
            if let (true, Ok(claim)) = (is_other, serde_json::from_str::<Claim>(&text))
                && stands(&other.path(), &claim)
            {
                let name = format!("the daemon of {}", claim.state_dir.display());
                others.extend(claim.all_ids().map(|ids| (name.clone(), ids)));
            }
        }
        for mine in self.claim.all_ids() {
            for (whose, ids) in others.iter().filter(|(_, ids)| ids.overlaps(mine)) {
                let text = format!(
                    "overlap {}:{} of {whose}: its processes and our guests may be the same users",
                    ids.base, ids.count
                );
                let fix = "give the other one another range, or start this daemon with another --id-range".to_owned();
                wrong("ids", format!("{}:{}", mine.base, mine.count), text, Cure::People(fix));
            }
        }
        found
    }
}

/// Finds what this state directory took, or takes what is free; with the file that says so, locked.
///
/// # Errors
///
/// A sentence that says what is in the way, and what to do.
pub(crate) async fn take(
    state_dir: &Path,
    mark: &str,
    store: &Store,
    wanted: Option<IdMap>,
) -> Result<(Claim, File), String> {
    let lock = lock().map_err(|e| format!("lock {DIRECTORY}: {e}"))?;
    let others = others(mark).map_err(|e| format!("read the claims in {DIRECTORY}: {e}"))?;
    let kept = store.get(DOCUMENT.0, DOCUMENT.1).map_err(|e| e.to_string())?;
    let before = kept.map(|document| document.body);
    // What a damaged database lost may still lie where other daemons look for it.
    let told = || fs::read_to_string(Path::new(DIRECTORY).join(mark)).ok();
    let kept: Option<Claim> = before.clone().or_else(told).and_then(|body| serde_json::from_str(&body).ok());
    let mut claim = match kept {
        Some(claim) => Claim { state_dir: state_dir.to_owned(), ..claim },
        None => choose(state_dir, mark, &others, wanted)?,
    };
    if let Some(ids) = wanted.filter(|ids| *ids != claim.ids) {
        claim.former_ids.push(std::mem::replace(&mut claim.ids, ids));
    }
    for (mine, other) in claim.all_ids().flat_map(|mine| others.iter().map(move |other| (mine, other))) {
        if other.all_ids().any(|ids| ids.overlaps(mine)) {
            return Err(format!(
                "the ids {}:{} overlap those of the daemon of {}: start one of the two with another --id-range",
                mine.base,
                mine.count,
                other.state_dir.display()
            ));
        }
    }
    let body = serde_json::to_string(&claim).map_err(|e| e.to_string())?;
    // Not written again when it is there: a start on a full or damaged disk needs no room.
    if before.as_ref() != Some(&body) && store.read_only().is_none() {
        let op = Op::Put { kind: DOCUMENT.0, key: DOCUMENT.1.into(), body: body.clone() };
        store.commit(Txn { compare: Vec::new(), ops: vec![op] }).await.map_err(|e| e.to_string())?;
    }
    let held = write(mark, &body).map_err(|e| format!("write a claim to {DIRECTORY}: {e}"))?;
    drop(lock);
    Ok((claim, held))
}

/// Gives everything back.
pub(crate) fn give_back(mark: &str) -> io::Result<()> {
    let _lock = lock()?;
    match fs::remove_file(Path::new(DIRECTORY).join(mark)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The last one takes the directory along; whoever waits for the lock meanwhile sees that it is not this file's any more.
    if fs::read_dir(DIRECTORY)?.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOCK)) {
        fs::remove_file(Path::new(DIRECTORY).join(LOCK))?;
        fs::remove_dir(DIRECTORY)?;
    }
    Ok(())
}

fn choose(state_dir: &Path, mark: &str, others: &[Claim], wanted: Option<IdMap>) -> Result<Claim, String> {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut ids: Vec<IdMap> = others.iter().flat_map(Claim::all_ids).collect();
    ids.extend(["/etc/subuid", "/etc/subgid"].iter().flat_map(|path| plan::subordinate_ids(&text(path))));
    let ids = match wanted {
        Some(ids) => ids,
        None => plan::free_ids(&ids).ok_or("no free range of ids was found: name one with --id-range BASE:COUNT")?,
    };
    let links = || -> network::Result<(Vec<link::Link>, Vec<link::Address>)> {
        let mut socket = Socket::route()?;
        Ok((link::list(&mut socket)?, link::addresses(&mut socket, None)?))
    };
    let (links, addresses) = links().map_err(|e| format!("look at the links of this host: {e}"))?;
    let mut subnets = plan::routes(&text("/proc/net/route"));
    subnets.extend(addresses.iter().map(|address| address.cidr));
    subnets.extend(others.iter().filter_map(|other| other.ipv4));
    let mut names: BTreeSet<String> = links.into_iter().map(|link| link.name).collect();
    names.extend(others.iter().map(|other| other.bridge.clone()));
    let mut random = [0u8; 7];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(|e| e.to_string())?;
    let seed = u16::from_str_radix(&mark[..4.min(mark.len())], 16).unwrap_or_default();
    Ok(Claim {
        state_dir: state_dir.to_owned(),
        ids,
        former_ids: Vec::new(),
        bridge: plan::free_bridge(&names),
        ipv4: plan::free_ipv4(&subnets, seed),
        ipv6: plan::local_ipv6(random),
    })
}

/// One daemon at a time looks and takes.
fn lock() -> io::Result<File> {
    loop {
        let file = take_lock()?;
        // Not one that was removed while we waited for it.
        if file.metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}

fn take_lock() -> io::Result<File> {
    match fs::DirBuilder::new().mode(0o700).create(DIRECTORY) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Everybody may write to /run/lock: what somebody else put there is not trusted.
    let found = fs::symlink_metadata(DIRECTORY)?;
    if !found.is_dir() || found.uid() != 0 || found.mode() & 0o022 != 0 {
        return Err(io::Error::other("it is not root's own directory; remove it"));
    }
    let file = File::options().write(true).create(true).truncate(false).open(Path::new(DIRECTORY).join(LOCK))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// The file of a mark, or what was left of it when its daemon died in the middle of writing it.
fn is_ours(name: &OsStr, mark: &str) -> bool {
    Path::new(name).file_stem() == Some(OsStr::new(mark))
}

/// Claims of daemons that live, or whose state directory is still there.
fn others(mark: &str) -> io::Result<Vec<Claim>> {
    let mut claims = Vec::new();
    for entry in fs::read_dir(DIRECTORY)? {
        let entry = entry?;
        if is_ours(&entry.file_name(), mark) || entry.file_name() == LOCK {
            continue;
        }
        let Ok(claim) = serde_json::from_str::<Claim>(&fs::read_to_string(entry.path())?) else { continue };
        if stands(&entry.path(), &claim) {
            claims.push(claim);
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(claims)
}

/// Whether a claim counts: its daemon lives, or may come again.
fn stands(path: &Path, claim: &Claim) -> bool {
    let is_locked = |file: &File| rustix::fs::flock(file, FlockOperation::NonBlockingLockShared).is_err();
    // The state directory may lie where this daemon's sandbox has something else, like `/var/tmp`.
    let lives = File::open(path).is_ok_and(|file| is_locked(&file));
    let database = claim.state_dir.join(super::DATABASE);
    // One that is lost is made anew of its manifests: its daemon keeps what it took.
    lives || database.exists() || database.with_extension("db.manifests").exists()
}

fn write(mark: &str, body: &str) -> io::Result<File> {
    let path = Path::new(DIRECTORY).join(mark);
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    // Before there is anything in it by which another daemon would ask whether it is locked.
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    file.write_all(body.as_bytes())?;
    crash::moment("between", "claim");
    fs::rename(&temporary, &path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_daemon_half_wrote_is_no_claim_of_another() {
        let is_ours = |name: &str| is_ours(OsStr::new(name), "0a1b");
        assert_eq!(["0a1b", "0a1b.new", "0a1c", "0a1c.new", LOCK].map(is_ours), [true, true, false, false, false]);
    }
}
