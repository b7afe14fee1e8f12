//! The disk of a storage pool full, that of the database not: a wish that needs room is refused in words, what a guest holds
//! is kept, everything else goes on, and a deletion makes room.

#![allow(missing_docs)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use support::Daemon;
use sysctl_client::Error;

/// Another disk at the directory of pools.
struct PoolDisk {
    at: std::path::PathBuf,
    _disk: testkit::mount::SmallDisk,
}

impl PoolDisk {
    fn below(daemon: &Daemon, mebibytes: u64) -> PoolDisk {
        let disk = testkit::mount::SmallDisk::new("full-pool", mebibytes);
        let at = daemon.state_dir().join("pools");
        mount_bind(disk.path(), &at).expect("mount");
        PoolDisk { at, _disk: disk }
    }
}

impl Drop for PoolDisk {
    fn drop(&mut self) {
        let gone = unmount(&self.at, UnmountFlags::empty());
        assert!(gone.is_ok() || std::thread::panicking(), "unmount {}: {gone:?}", self.at.display());
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}

/// Names below a directory, two levels deep, but for what is being put away.
fn names(directory: &Path) -> Vec<String> {
    let read = |at: &Path| std::fs::read_dir(at).into_iter().flatten().flatten().map(|entry| entry.path());
    let deeper = read(directory).flat_map(|path| read(&path).collect::<Vec<_>>());
    let mut names: Vec<String> =
        deeper.map(|path| path.display().to_string()).filter(|n| !n.contains("trash")).collect();
    names.sort();
    names
}

/// Writes a guest's file until its disk is full; how much of it there is.
async fn fill(daemon: &Daemon, guest: &str) -> u64 {
    let dd =
        "dd if=/dev/zero of=/filler bs=64k 2>/dev/null; dd if=/dev/zero of=/filler2 bs=1k 2>&1; stat -c %s /filler";
    let said = daemon.print(guest, &["sh", "-c", dd]).await;
    assert!(said.contains("No space left on device"), "{said}");
    said.lines().last().and_then(|line| line.parse().ok()).expect("a size")
}

/// How it was refused, and how long that took.
struct Refusal {
    what: &'static str,
    error: String,
    took: Duration,
}

async fn refused<T>(what: &'static str, wish: impl Future<Output = Result<T, Error>>) -> Refusal {
    let asked = Instant::now();
    let error = match wish.await {
        Ok(_) => panic!("{what} was not refused"),
        Err(error) => error.to_string(),
    };
    Refusal { what, error, took: asked.elapsed() }
}

/// Writes a guest's file of so many MiB by SFTP.
async fn push(daemon: &Daemon, guest: &str, mebibytes: usize) -> Result<(), Error> {
    let mut sftp = daemon.client.get_instance_sftp(guest).await?;
    let content = vec![7u8; mebibytes << 20];
    sftp.write_file(Path::new("/big"), &mut &*content, &Default::default()).await.map(drop)
}

#[tokio::test]
async fn a_full_pool_refuses_what_needs_room_and_keeps_all_else_going() {
    let mut daemon = Daemon::new("full-pool");
    daemon.terminate();
    let disk = PoolDisk::below(&daemon, 48);
    daemon.start();
    daemon.import_busybox().await;
    for name in ["a", "b", "c"] {
        daemon.launch(name, &[]).await;
    }
    daemon.print("a", &["sh", "-c", "echo precious > /kept"]).await;
    let (a, b) = (daemon.init_pid("a").await, daemon.init_pid("b").await);
    let work = testkit::Scratch::new("zeros");
    let filler = fill(&daemon, "a").await;
    let before = names(&daemon.state_dir().join("pools/default"));

    // What needs room in the pool.
    let archive = support::archive_of_zeros(&work, 8);
    let refusals =
        [refused("an import", daemon.import(&archive, &[])).await, refused("a file", push(&daemon, "b", 8)).await];
    for refusal in &refusals {
        assert!(refusal.error.contains("No space left") || refusal.error.contains("full"), "{}", refusal.error);
    }
    let left: Vec<String> =
        names(&daemon.state_dir().join("pools/default")).into_iter().filter(|name| !before.contains(name)).collect();

    // Everything else.
    assert_eq!(daemon.print("b", &["echo", "alive"]).await, "alive");
    daemon.set("b", &[("user.note", "changed"), ("limits.processes", "77")]).await.expect("the database has room");
    daemon.change("c", "restart", true).await;
    daemon.change("b", "stop", true).await;
    daemon.try_delete("b").await.expect("deleted");
    assert_eq!(daemon.print("a", &["cat", "/kept"]).await, "precious");
    assert_eq!(daemon.init_pid("a").await, a);

    // Room again.
    daemon.change("a", "stop", true).await;
    daemon.try_delete("a").await.expect("deleted");
    testkit::eventually("room in the pool", || {
        let disk = rustix::fs::statvfs(daemon.state_dir().join("pools")).expect("statvfs");
        (disk.f_bavail * disk.f_frsize > filler / 2).then_some(())
    });
    daemon.launch("b", &[]).await;
    assert_ne!(daemon.init_pid("b").await, b);
    daemon.import(&archive, &[]).await.expect("room for it");
    daemon.healthy().await;
    for refusal in &refusals {
        eprintln!(
            "figure: pool full, database not: {} refused in words after {} ms, {} names left",
            refusal.what,
            refusal.took.as_millis(),
            left.len()
        );
    }
    assert_eq!(left, Vec::<String>::new());
    daemon.empty().await;
    daemon.terminate();
    drop(disk);
    daemon.start();
    daemon.finish().await;
}
