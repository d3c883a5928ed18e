//! Opens the socket to one host.

use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::socket::{Socket, Tcp};
use crate::{Error, tls};
use tailwater_config::PostgresConfig;
use tailwater_config::postgres::{Host, SslMode};

/// How long a server may take to accept a connection, and again to log us in.
pub const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// A connection without traffic is asked after this time, this often, this many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// What we sent and nobody acknowledged for so long tells that the other side is gone.
const UNACKNOWLEDGED: Duration = Duration::from_secs(40);

/// Connects to a host, encrypted as configured. Nothing is said yet.
pub async fn dial(config: &PostgresConfig, host: &Host) -> Result<Socket, Error> {
    let address = config.address_of(host);
    match timeout(CONNECT_WAIT, connect(config, host, &address)).await {
        Ok(socket) => socket,
        Err(_) => {
            Err(Error::Silent { address, doing: "connecting", seconds: CONNECT_WAIT.as_secs() })
        }
    }
}

async fn connect(config: &PostgresConfig, host: &Host, address: &str) -> Result<Socket, Error> {
    let unreachable = |source| Error::Unreachable { address: address.to_owned(), source };
    match host {
        Host::Unix { folder, port } => {
            let path = folder.join(format!(".s.PGSQL.{port}"));
            Ok(Socket::unix(UnixStream::connect(path).await.map_err(unreachable)?))
        }
        Host::Tcp { name, port } => {
            let stream = TcpStream::connect((name.as_str(), *port)).await.map_err(unreachable)?;
            prepare(&stream).map_err(unreachable)?;
            let stream = Tcp::new(stream);
            match config.sslmode(host) {
                SslMode::Disable => Ok(Socket::plain(stream)),
                mode => tls::encrypt(stream, config, mode, name, address).await,
            }
        }
    }
}

/// Half-open connections are found by the kernel too, also while neither side has anything to say.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (time, interval, retries) = KEEPALIVE;
    let keepalive =
        socket2::TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries);
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}
