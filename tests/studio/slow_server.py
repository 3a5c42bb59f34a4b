"""A real server on loopback that hands a file out in portions, as a test lets it. Also speaks as the hub does."""

import hashlib
import http.server
import re
import threading


class SlowServer(http.server.ThreadingHTTPServer):
    """``content`` is its last.ckpt. ``begun``: from which byte on it was asked for, each time."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.begun = content, []
        self.address = f"http://127.0.0.1:{self.server_port}"
        self._free, self._changed = 0, threading.Condition()

    def let(self, upto):
        """Hand out the first so many bytes, whoever asks."""
        with self._changed:
            self._free = upto
            self._changed.notify_all()

    def more(self, sent):
        """Wait until there is more than was sent; where that ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._free > sent)
            return self._free

    def handle_error(self, request, client_address):
        """A client that hangs up is part of the game."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: SlowServer

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._head(200, 0)

    def do_GET(self):
        if not self.path.endswith("/last.ckpt"):  # the hub's library also asks for other things
            return self.send_error(404)
        size = len(self.server.content)
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        sent = int(found[1]) if found else 0
        self.server.begun.append(sent)
        self._head(206 if found else 200, sent)
        while sent < size:
            upto = self.server.more(sent)
            self.wfile.write(self.server.content[sent:upto])
            self.wfile.flush()
            sent = min(upto, size)
        return None

    def _head(self, status, start):
        content = self.server.content
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()[:16]}"')
        self.send_header("X-Repo-Commit", "0" * 40)  # what the Hugging Face hub says
        self.end_headers()
