"""A real server on loopback that misbehaves when asked to."""

import hashlib
import http.server
import re
import time

ZIP = b"PK\3\4"  # how a file of torch.save begins
CONTENT = ZIP + (bytes(range(256)) * 1200)[4:]  # 307,200 bytes
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; ``mood`` is asked before each answer and may return how to misbehave."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.log, self.mood = {"/model.ckpt": CONTENT}, [], lambda number: {}
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that hangs up is part of the game."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        server.log.append((self.path, self.headers.get("Range")))
        mood = server.mood(len(server.log))
        time.sleep(mood.get("silent", 0))
        if "redirect" in mood:
            self.send_response(302)
            self.send_header("Location", mood["redirect"])
            return self.end_headers()
        content = server.files.get(self.path)
        if content is None or "status" in mood:
            return self.send_error(mood.get("status", 404))
        tag, start = f'"{hashlib.sha256(content).hexdigest()[:16]}"', 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and self.headers.get("If-Range", tag) == tag and not mood.get("no_ranges"):
            start = int(wanted[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", mood.get("type", "application/octet-stream"))
        if not mood.get("no_length"):
            self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", mood.get("tag", tag))
        self.send_header("X-Repo-Commit", "0" * 40)  # what the Hugging Face hub says
        self.end_headers()
        if self.command == "HEAD":
            return None
        body = content[start:]
        self.wfile.write(body[: mood.get("cut", len(body))])
        self.wfile.flush()
        time.sleep(mood.get("stall", 0))
        if "stall" in mood:
            self.wfile.write(body[mood["cut"] :])
        return None
