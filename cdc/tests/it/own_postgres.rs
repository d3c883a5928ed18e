//! A Postgres server of one test: with settings and certificates of its own, and free to be killed.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tailwater_config::PostgresConfig;
use tailwater_config::postgres::Hosts;
use tailwater_postgres::Client;

pub(crate) struct OwnPostgres {
    programs: PathBuf,
    folder: PathBuf,
    pub(crate) port: u16,
    process: Option<Child>,
}

/// The server programs of the version that the tests are for: the distribution's, unless told.
fn usual() -> PathBuf {
    std::env::var_os("TAILWATER_TEST_POSTGRES_PROGRAMS").map_or_else(installed, PathBuf::from)
}

/// The programs of the newest version that the distribution installed, clients among them.
fn installed() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("Postgres is installed");
    let newest = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .expect("Postgres is installed");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"))
}

/// The programs of a version that was fetched for the tests.
fn fetched(major: u32) -> PathBuf {
    let name = format!("TAILWATER_TEST_POSTGRES_{major}");
    let part = std::env::var(&name).unwrap_or_else(|_| {
        panic!("`{name}` names the folder of Postgres {major}; run the tests with `make test`")
    });
    PathBuf::from(part).join("bin")
}

/// Postgres refuses to run as root; then it runs as `postgres`. It dies with the test, whatever ends that.
pub(crate) fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if owner().is_some() {
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
    }
    command.arg(program).current_dir(folder);
    command
}

/// User and group of `postgres`, when we are root.
fn owner() -> Option<(u32, u32)> {
    let id = |what: &[&str]| {
        let output = Command::new("id").args(what).output().expect("`id` runs").stdout;
        String::from_utf8_lossy(&output).trim().parse::<u32>().ok()
    };
    (id(&["-u"])? == 0).then(|| Some((id(&["-u", "postgres"])?, id(&["-g", "postgres"])?)))?
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

pub(crate) fn new_folder() -> PathBuf {
    let folder =
        std::env::temp_dir().join(format!("tailwater-pg-{}", uuid::Uuid::new_v4().simple()));
    fs::create_dir(&folder).expect("a folder");
    if let Some((user, group)) = owner() {
        chown(&folder, Some(user), Some(group)).expect("we are root");
    }
    folder
}

impl OwnPostgres {
    /// A new cluster of the version that the tests are for, not started.
    pub(crate) fn new() -> Self {
        Self::made_by(usual())
    }

    /// A new cluster of this major version, not started.
    pub(crate) fn of_version(major: u32) -> Self {
        Self::made_by(fetched(major))
    }

    fn made_by(programs: PathBuf) -> Self {
        let folder = new_folder();
        let data = folder.join("data");
        run(command(&programs.join("initdb"), &folder)
            .args([
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "-D",
            ])
            .arg(&data));
        let own = Self { programs, folder, port: free_port(), process: None };
        own.set(
            "listen_addresses = '127.0.0.1'
             fsync = off
             wal_level = logical
             wal_sender_timeout = 10s
             max_wal_senders = 10",
        );
        own
    }

    /// A standby of this server, which must not be running, and does not run itself.
    pub(crate) fn standby(&self) -> Self {
        assert!(self.process.is_none(), "a running server's files are no copy of it");
        let folder = new_folder();
        run(Command::new("cp").arg("-a").arg(self.data()).arg(&folder));
        let own =
            Self { programs: self.programs.clone(), folder, port: free_port(), process: None };
        own.write("standby.signal", "");
        own.set(&format!(
            "primary_conninfo = 'host=127.0.0.1 port={} user=postgres dbname=postgres'",
            self.port
        ));
        own
    }

    /// Adds to `postgresql.conf`.
    pub(crate) fn set(&self, settings: &str) {
        let path = self.data().join("postgresql.conf");
        let own = format!(
            "port = {}\nunix_socket_directories = '{}'\n",
            self.port,
            self.folder.display()
        );
        let text =
            fs::read_to_string(&path).expect("a configuration") + "\n" + &own + settings + "\n";
        fs::write(path, text).expect("we may write");
    }

    /// Replaces `pg_hba.conf`.
    pub(crate) fn admit(&self, entries: &str) {
        self.write("pg_hba.conf", entries);
    }

    /// Writes a file into the data folder, for the server's eyes only.
    pub(crate) fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.data().join(name);
        fs::write(&path, text).expect("we may write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        if let Some((user, group)) = owner() {
            chown(&path, Some(user), Some(group)).expect("we are root");
        }
    }

    /// Starts it and waits until it takes connections on its Unix socket.
    pub(crate) fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log"));
        let log = log.expect("a log");
        let child = command(&self.programs.join("postgres"), &self.folder)
            .arg("-D")
            .arg(self.data())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(child.expect("Postgres starts"));
        let began = Instant::now();
        loop {
            let ready = command(&installed().join("pg_isready"), &self.folder)
                .args(["-q", "-h"])
                .arg(&self.folder)
                .args(["-p", &self.port.to_string()])
                .status();
            if ready.is_ok_and(|status| status.success()) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A copy of its data, while it does not run: what a backup is.
    pub(crate) fn back_up(&self) {
        run(Command::new("cp").arg("-a").arg(self.data()).arg(self.backup()));
    }

    /// Takes the copy for its data.
    pub(crate) fn restore(&self) {
        fs::remove_dir_all(self.data()).expect("it is ours");
        fs::rename(self.backup(), self.data()).expect("it is ours");
    }

    fn backup(&self) -> PathBuf {
        self.folder.join("backup")
    }

    /// Ends it as if the power went.
    pub(crate) fn crash(&mut self) {
        self.end(Signal::SIGQUIT);
    }

    /// Ends it as an administrator does, and says how long that took: sessions are cut off, readers of the WAL are given
    /// time to take the last of it.
    pub(crate) fn shut_down(&mut self) -> Duration {
        let began = Instant::now();
        self.end(Signal::SIGINT);
        began.elapsed()
    }

    fn end(&mut self, how: Signal) {
        if let Some(mut process) = self.process.take() {
            // The process is our child and not yet waited for, so its id is nobody else's.
            let _ = kill(Pid::from_raw(process.id() as i32), how);
            let _ = process.wait();
        }
    }

    /// Makes a standby the primary.
    pub(crate) fn promote(&self) {
        run(command(&self.programs.join("pg_ctl"), &self.folder)
            .args(["promote", "-w", "-D"])
            .arg(self.data()));
    }

    /// Takes changed settings and files.
    pub(crate) async fn reload(&self) {
        self.ask("SELECT pg_reload_conf()");
        // The postmaster is told by a signal.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    /// Over the Unix socket, as the superuser.
    pub(crate) async fn client(&self) -> Client {
        let hosts = Hosts::parse(&self.socket(), self.port).expect("a folder");
        let config = PostgresConfig::new(hosts, "postgres", "postgres");
        tailwater_postgres::client(&config, "test").await.expect("it answers")
    }

    pub(crate) async fn sql(&self, statements: &str) {
        self.client().await.batch_execute(statements).await.expect("valid SQL");
    }

    /// One statement and its answer, also from a standby, to which the product does not talk.
    pub(crate) fn ask(&self, statement: &str) -> String {
        let output = command(&installed().join("psql"), &self.folder)
            .args(["-XAtq", "-U", "postgres", "-h"])
            .arg(&self.folder)
            .args(["-p", &self.port.to_string(), "-c", statement])
            .output()
            .expect("psql starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{statement}`: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The folder of its Unix socket.
    pub(crate) fn socket(&self) -> String {
        self.folder.display().to_string()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        self.crash();
        if std::thread::panicking() {
            eprintln!("---- the server's log\n{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
