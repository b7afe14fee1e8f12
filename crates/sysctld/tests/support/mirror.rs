//! A mirror of one small package, signed as a real one is and served on this machine: an image is built from it in a second,
//! whatever the network does.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest as _, Sha256};
use testkit::Scratch;

const PACKAGE: &str = "pool/busybox-static.deb";
const INDEX: &str = "main/binary-amd64/Packages";

/// Serves for as long as the test's process lives.
pub struct Mirror {
    work: Scratch,
}

impl Mirror {
    pub fn serve() -> Mirror {
        let work = Scratch::new("mirror");
        let root = work.join("root");
        pack(&work);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        index(&work);
        let recipe = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/busybox.toml"));
        fs::create_dir(work.join("recipes")).expect("mkdir");
        fs::write(work.join("recipes/busybox.toml"), here(&recipe.expect("the recipe"), address, &work))
            .expect("write");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let root = root.clone();
                std::thread::spawn(move || serve(stream, &root));
            }
        });
        Mirror { work }
    }

    /// The directory of recipes that build from here, for `SYSCTL_IMAGES_DIR`.
    pub fn recipes(&self) -> PathBuf {
        self.work.join("recipes")
    }
}

/// A recipe that takes its packages from here.
fn here(recipe: &str, address: std::net::SocketAddr, work: &Scratch) -> String {
    let lines = recipe.lines().filter(|line| !line.contains("deb http://deb.debian.org/debian-security"));
    let lines = lines.map(|line| {
        if line.starts_with("keyring = ") {
            format!("keyring = \"{}\"\n", work.join("keyring.gpg").display())
        } else {
            format!("{line}\n").replace("http://deb.debian.org/debian", &format!("http://{address}"))
        }
    });
    lines.collect()
}

fn run(command: &mut Command) {
    let done = command.stdin(Stdio::null()).output().expect("it runs");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn pack(work: &Scratch) {
    let tree = work.join("package");
    let control = "Package: busybox-static\nVersion: 1\nArchitecture: amd64\nMaintainer: a test <test@localhost>\n\
                   Description: a program\n";
    for (path, content) in [
        ("DEBIAN/control", control),
        ("usr/bin/busybox", "a program"),
        ("usr/share/doc/busybox-static/copyright", "none"),
    ] {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        fs::write(path, content).expect("write");
    }
    fs::create_dir_all(work.join("root/pool")).expect("mkdir");
    run(Command::new("dpkg-deb").arg("--root-owner-group").arg("-b").arg(&tree).arg(work.join("root").join(PACKAGE)));
}

/// Writes the lists of the archive, and signs them.
fn index(work: &Scratch) {
    let sum = |content: &[u8]| Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let dist = work.join("root/dists/trixie");
    fs::create_dir_all(dist.join(INDEX).parent().expect("a parent")).expect("mkdir");
    let package = fs::read(work.join("root").join(PACKAGE)).expect("the package");
    let packages = format!(
        "Package: busybox-static\nVersion: 1\nArchitecture: amd64\nMaintainer: a test <test@localhost>\n\
         Filename: {PACKAGE}\nSize: {}\nSHA256: {}\nDescription: a program\n",
        package.len(),
        sum(&package)
    );
    fs::write(dist.join(INDEX), &packages).expect("write");
    let release = format!(
        "Origin: a test\nSuite: stable\nCodename: trixie\nDate: {}\nArchitectures: amd64\nComponents: main\n\
         SHA256:\n {} {} {INDEX}\n",
        "Thu, 01 Jan 2026 00:00:00 UTC",
        sum(packages.as_bytes()),
        packages.len()
    );
    fs::write(work.join("Release"), release).expect("write");
    let home = work.join("gnupg");
    fs::create_dir(&home).expect("mkdir");
    let gpg = |arguments: &[&str]| {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(&home).args(["--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]);
        run(gpg.args(arguments).current_dir(work.path()));
    };
    gpg(&["--quick-generate-key", "test@localhost", "ed25519", "sign", "never"]);
    gpg(&["--output", "keyring.gpg", "--export"]);
    gpg(&["--output", "root/dists/trixie/InRelease", "--clearsign", "Release"]);
    // It leaves an agent behind.
    run(Command::new("gpgconf").arg("--homedir").arg(&home).args(["--kill", "all"]));
}

/// Answers one request; what is asked for is known, so a path is not made safe.
fn serve(stream: TcpStream, root: &Path) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let (status, body) = match fs::read(root.join(path)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // Whoever asked may be gone.
    let _ = (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(&body));
}
