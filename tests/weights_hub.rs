//! Downloads, against a small server on loopback: broken connections, wrong checksums, shards, refusals.
#![cfg(feature = "hub")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod weights_support;

use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vitscope::weights::{ClipCheckpoint, Hub, HubCache, HubId};
use weights_support::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Default)]
struct State {
    files: HashMap<String, Vec<u8>>,
    /// Large files: the checksum that the server claims.
    checksums: HashMap<String, String>,
    /// How many more body answers of a file break after so many bytes.
    breaks: HashMap<String, (usize, usize)>,
    /// Answers every GET of a file with all of it.
    no_ranges: bool,
    /// Files that the hub serves under another path of its own.
    moved: bool,
    log: Vec<String>,
}

struct Server {
    endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    fn start(state: State) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = shared.clone();
                std::thread::spawn(move || answer(stream.unwrap(), &shared));
            }
        });
        Server { endpoint, state }
    }

    fn hub(&self, cache: &std::path::Path) -> Hub {
        Hub::new(&self.endpoint, HubCache::at(cache), Some("secret".into()), Duration::from_millis(1))
    }

    fn log(&self) -> Vec<String> {
        self.state.lock().unwrap().log.clone()
    }
}

/// One request per connection.
fn answer(mut stream: TcpStream, state: &Mutex<State>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(|line| line.ok());
    let Some(request) = lines.next() else { return };
    let headers: Vec<String> =
        lines.take_while(|line| !line.is_empty()).map(|line| line.to_ascii_lowercase()).collect();
    let header = |name: &str| headers.iter().find_map(|h| h.strip_prefix(&format!("{name}: ")).map(str::to_string));
    let (method, path) = request.rsplit_once(' ').unwrap().0.split_once(' ').unwrap();
    let mut state = state.lock().unwrap();
    let start: usize = header("range").map_or(0, |r| r["bytes=".len()..].trim_end_matches('-').parse().unwrap());
    state.log.push(format!("{method} {path} {start}"));
    assert_eq!(header("authorization").as_deref(), Some("bearer secret"));
    let mut reply = |status: &str, headers: &str, body: &[u8], stop: usize| {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        if method == "GET" {
            let _ = stream.write_all(&body[..stop.min(length)]);
        }
    };
    if path == "/api/models/org/clip/revision/main" {
        let siblings: Vec<_> = state.files.keys().map(|name| json!({"rfilename": name})).collect();
        let body = json!({"sha": COMMIT, "siblings": siblings}).to_string();
        return reply("200 OK", "", body.as_bytes(), usize::MAX);
    }
    let resolved = path.strip_prefix(&format!("/org/clip/resolve/{COMMIT}/"));
    if let Some(name) = resolved.filter(|name| state.moved && !state.checksums.contains_key(*name)) {
        return reply("307 Temporary Redirect", &format!("location: /moved/{name}\r\n"), b"", 0);
    }
    if let Some(name) = resolved.or(path.strip_prefix("/moved/"))
        && let Some(file) = state.files.get(name).cloned()
    {
        if method == "HEAD" {
            let headers = match state.checksums.get(name) {
                // Large files live elsewhere: only this answer knows their checksum.
                Some(sha) => format!(
                    "location: http://elsewhere.invalid/x\r\nx-linked-etag: \"{sha}\"\r\nx-linked-size: {}\r\n",
                    file.len()
                ),
                None => format!("etag: \"{name}-tag\"\r\n").replace('.', "-"),
            };
            let status = if state.checksums.contains_key(name) { "302 Found" } else { "200 OK" };
            return reply(status, &headers, &file, 0);
        }
        let stop = match state.breaks.get_mut(name) {
            Some((times, bytes)) if *times > 0 => {
                *times -= 1;
                *bytes
            }
            _ => usize::MAX,
        };
        if start > 0 && !state.no_ranges {
            let range = format!("content-range: bytes {start}-{}/{}\r\n", file.len() - 1, file.len());
            return reply("206 Partial Content", &range, &file[start..], stop);
        }
        return reply("200 OK", "", &file, stop);
    }
    reply("404 Not Found", "", b"", 0);
}

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A whole checkpoint as a server holds it.
fn checkpoint() -> State {
    let dir = tempfile::tempdir().unwrap();
    save_hf(dir.path());
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let weights = read("model.safetensors");
    let mut state = State::default();
    state.checksums.insert("model.safetensors".into(), sha(&weights));
    state.files.insert("model.safetensors".into(), weights);
    state.files.insert("config.json".into(), read("config.json"));
    state.files.insert("preprocessor_config.json".into(), b"{}".to_vec());
    state.files.insert("pytorch_model.bin".into(), b"never".to_vec());
    state
}

fn id() -> HubId {
    HubId::parse("org/clip").unwrap()
}

#[test]
fn a_model_lands_in_the_cache_and_opens() {
    let (server, cache) = (Server::start(checkpoint()), tempfile::tempdir().unwrap());
    let mut last = HashMap::new();
    let hub = server.hub(cache.path());
    let snapshot = hub.download(&id(), &mut |p| {
        assert!(p.done <= p.total && last.insert(p.file.to_string(), p.done).unwrap_or(0) <= p.done);
    });
    let snapshot = snapshot.unwrap();
    assert_eq!(last["model.safetensors"], std::fs::metadata(snapshot.join("model.safetensors")).unwrap().len());
    assert_eq!(HubCache::at(cache.path()).find(&id()).unwrap(), snapshot);
    let clip = ClipCheckpoint::open(&snapshot).unwrap();
    assert_eq!(clip.read("logit_scale", &[]).unwrap(), hf_tensors()[0].2);
    let log = server.log();
    assert!(!log.iter().any(|line| line.contains("pytorch_model")), "{log:?}");
    // What is there is not fetched again.
    hub.download(&id(), &mut |_| {}).unwrap();
    let more: Vec<String> = server.log().split_off(log.len());
    assert!(more.iter().all(|line| line.contains("/api/")), "{more:?}");
}

#[test]
fn a_broken_transfer_continues_where_it_stopped() {
    let mut state = checkpoint();
    state.breaks.insert("model.safetensors".into(), (3, 1000));
    let (server, cache) = (Server::start(state), tempfile::tempdir().unwrap());
    let snapshot = server.hub(cache.path()).download(&id(), &mut |_| {}).unwrap();
    ClipCheckpoint::open(&snapshot).unwrap();
    let starts: Vec<String> =
        server.log().into_iter().filter(|l| l.starts_with("GET") && l.contains("model.s")).collect();
    let starts: Vec<&str> = starts.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(starts, ["0", "1000", "2000", "3000"]);
}

#[test]
fn what_came_is_kept_for_the_next_run() {
    let mut state = checkpoint();
    state.breaks.insert("model.safetensors".into(), (usize::MAX, 1000));
    let (server, cache) = (Server::start(state), tempfile::tempdir().unwrap());
    let hub = server.hub(cache.path());
    let message = hub.download(&id(), &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("5000 of"), "{message}");
    assert!(HubCache::at(cache.path()).snapshot(&id()).is_none(), "half a model is none");
    server.state.lock().unwrap().breaks.clear();
    let before = server.log().len();
    ClipCheckpoint::open(&hub.download(&id(), &mut |_| {}).unwrap()).unwrap();
    let log = server.log().split_off(before);
    assert!(
        log.iter().any(|l| l.starts_with("GET") && l.contains("model.safetensors") && l.ends_with(" 5000")),
        "{log:?}"
    );
}

#[test]
fn a_server_without_ranges_starts_again() {
    let mut state = checkpoint();
    state.breaks.insert("model.safetensors".into(), (1, 1000));
    state.no_ranges = true;
    let (server, cache) = (Server::start(state), tempfile::tempdir().unwrap());
    ClipCheckpoint::open(&server.hub(cache.path()).download(&id(), &mut |_| {}).unwrap()).unwrap();
}

#[test]
fn redirects_within_the_hub_are_followed() {
    let (server, cache) = (Server::start(State { moved: true, ..checkpoint() }), tempfile::tempdir().unwrap());
    ClipCheckpoint::open(&server.hub(cache.path()).download(&id(), &mut |_| {}).unwrap()).unwrap();
    assert!(server.log().iter().any(|line| line.starts_with("GET /moved/config.json")));
}

#[test]
fn a_wrong_checksum_is_refused_and_removed() {
    let mut state = checkpoint();
    state.checksums.insert("model.safetensors".into(), sha(b"something else"));
    let (server, cache) = (Server::start(state), tempfile::tempdir().unwrap());
    let error = server.hub(cache.path()).download(&id(), &mut |_| {}).unwrap_err();
    assert!(error.exit_code() == 3 && error.to_string().contains("wrong checksum"), "{error}");
    let blobs = cache.path().join("models--org--clip").join("blobs");
    let left = std::fs::read_dir(blobs)
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains(&sha(b"something else")));
    assert_eq!(left.count(), 0);
    assert!(HubCache::at(cache.path()).snapshot(&id()).is_none());
}

#[test]
fn shards_come_by_their_index() {
    let mut state = checkpoint();
    state.files.remove("model.safetensors");
    let dir = tempfile::tempdir().unwrap();
    let mut map = serde_json::Map::new();
    for (i, part) in hf_tensors().chunks(30).enumerate() {
        let name = format!("model-{i:05}.safetensors");
        save(&dir.path().join(&name), part);
        map.extend(part.iter().map(|(tensor, _, _)| (tensor.clone(), json!(name))));
        let bytes = std::fs::read(dir.path().join(&name)).unwrap();
        state.checksums.insert(name.clone(), sha(&bytes));
        state.files.insert(name, bytes);
    }
    let index = json!({"weight_map": map});
    state.files.insert("model.safetensors.index.json".into(), index.to_string().into_bytes());
    let (server, cache) = (Server::start(state), tempfile::tempdir().unwrap());
    ClipCheckpoint::open(&server.hub(cache.path()).download(&id(), &mut |_| {}).unwrap()).unwrap();
    // An index that names a shard which the model does not have.
    map.insert("more".into(), json!("../../escape.safetensors"));
    let index = json!({"weight_map": map}).to_string().into_bytes();
    server.state.lock().unwrap().files.insert("model.safetensors.index.json".into(), index);
    let other = tempfile::tempdir().unwrap();
    let message = server.hub(other.path()).download(&id(), &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("escape"), "{message}");
}

#[test]
fn unknown_models_and_pickles_are_named() {
    let mut state = checkpoint();
    state.files.remove("model.safetensors");
    let (server, cache) = (Server::start(state), tempfile::tempdir().unwrap());
    let hub = server.hub(cache.path());
    assert!(hub.download(&id(), &mut |_| {}).unwrap_err().to_string().contains("pickles"));
    let unknown = HubId::parse("org/other").unwrap();
    assert!(hub.download(&unknown, &mut |_| {}).unwrap_err().to_string().contains("404"));
    let nobody = Hub::new("http://127.0.0.1:1", HubCache::at(cache.path()), None, Duration::ZERO);
    assert_eq!(nobody.download(&id(), &mut |_| {}).unwrap_err().exit_code(), 3);
}
