"""A small client of SMB 2.1 or 3.0 for what no command-line client can be told to do: writes at any offset and in parallel, end
of file set first, flushes without a close, create contexts, FSCTLs, opens that are had back. Unsigned; NTLMv2 as in MS-NLMP 3.3.2."""
import hashlib
import hmac
import os
import socket
import struct

NEGOTIATE, SESSION_SETUP, TREE_CONNECT, CREATE, CLOSE, FLUSH, READ, WRITE, IOCTL, QUERY_INFO, SET_INFO = 0, 1, 3, 5, 6, 7, 8, 9, 11, 16, 17
MORE_PROCESSING, PENDING = 0xC0000016, 0x103
OK, DISK_FULL, ACCESS_DENIED, NAME_NOT_FOUND = 0, 0xC000007F, 0xC0000022, 0xC0000034
NAME_INVALID, WRITE_PROTECTED, INVALID_DEVICE_REQUEST = 0xC0000033, 0xC00000A2, 0xC0000010
# CreateDisposition (MS-SMB2 2.2.13)
SUPERSEDE, OPEN, MAKE, OPEN_IF, OVERWRITE, OVERWRITE_IF = range(6)
# FSCTLs (MS-FSCC 2.3)
SET_SPARSE, SET_ZERO_DATA, QUERY_ALLOCATED_RANGES = 0x900C4, 0x980C8, 0x940CF
PIECE = 1 << 20


def md4(data):
    """RFC 1320; OpenSSL 3 has it no more."""
    def rotate(x, n):
        x &= 0xFFFFFFFF
        return (x << n | x >> (32 - n)) & 0xFFFFFFFF
    state = [0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476]
    data = data + b"\x80" + bytes((55 - len(data)) % 64) + struct.pack("<Q", len(data) * 8)
    rounds = [
        (lambda x, y, z: x & y | ~x & z, 0, [3, 7, 11, 19], list(range(16))),
        (lambda x, y, z: x & y | x & z | y & z, 0x5A827999, [3, 5, 9, 13], [i % 4 * 4 + i // 4 for i in range(16)]),
        (lambda x, y, z: x ^ y ^ z, 0x6ED9EBA1, [3, 9, 11, 15], [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15]),
    ]
    for block in range(0, len(data), 64):
        words, work = struct.unpack("<16I", data[block:block + 64]), list(state)
        for mix, constant, shifts, order in rounds:
            for step, word in enumerate(order):
                a, b, c, d = work
                work = [d, rotate(a + mix(b, c, d) + words[word] + constant, shifts[step % 4]), b, c]
        state = [(x + y) & 0xFFFFFFFF for x, y in zip(state, work)]
    return struct.pack("<4I", *state)


class SmbError(Exception):
    def __init__(self, status):
        super().__init__(f"{status:#010x}")
        self.status = status


class Client:
    """A session with a tree connected. `guid`: the ClientGuid; `previous`: the session that this one takes the place of."""

    def __init__(self, port, share, user, password, dialect=0x0210, guid=None, previous=0, timeout=10):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.message, self.session, self.tree, self.credits, self.previous = 0, 0, 0, 1, previous
        self.interim = 0  # responses that only said that an answer will come
        self.call(NEGOTIATE, struct.pack("<HHHHI16sQH", 36, 1, 1, 0, 0, guid or os.urandom(16), 0, dialect))
        self.login(user, password)
        path = f"\\\\127.0.0.1\\{share}".encode("utf-16le")
        self.call(TREE_CONNECT, struct.pack("<HHHH", 9, 0, 72, len(path)) + path)
        self.tree = self.reply_tree

    def close(self):
        self.socket.close()

    def login(self, user, password):
        flags = 0x20000000 | 0x800000 | 0x80000 | 0x8000 | 0x200 | 0x4 | 0x1
        token = b"NTLMSSP\0" + struct.pack("<II16x", 1, flags)
        for _ in range(2):
            body = struct.pack("<HBBIIHHQ", 25, 0, 1, 0, 0, 88, len(token), self.previous) + token
            status, reply = self.exchange(SESSION_SETUP, body)
            if status == OK:
                return
            if status != MORE_PROCESSING:
                raise SmbError(status)
            at = reply.index(b"NTLMSSP\0")
            token = self.authenticate(reply[at:], user, password, flags)
        raise SmbError(status)

    @staticmethod
    def authenticate(challenge, user, password, flags):
        length, _, offset = struct.unpack("<HHI", challenge[40:48])
        info = challenge[offset:offset + length]
        utf16 = lambda text: text.encode("utf-16le")
        key = hmac.new(md4(utf16(password)), utf16(user.upper()), "md5").digest()
        temp = b"\1\1" + bytes(6) + struct.pack("<Q", 116444736000000000) + os.urandom(8) + bytes(4) + info + bytes(4)
        answer = hmac.new(key, challenge[24:32] + temp, "md5").digest() + temp
        fields, payload = b"", b""
        for part in (bytes(24), answer, b"", utf16(user), b"", b""):
            fields += struct.pack("<HHI", len(part), len(part), 64 + len(payload))
            payload += part
        return b"NTLMSSP\0" + struct.pack("<I", 3) + fields + struct.pack("<I", flags) + payload

    def send(self, command, body, charge=1):
        """Sends a request; returns its MessageId."""
        header = struct.pack("<4sHHIHHIIQIIQ16x", b"\xfeSMB", 64, charge, 0, command, 256, 0, 0, self.message, 0, self.tree, self.session)
        number = self.message
        self.message += charge
        self.credits -= charge
        self.socket.sendall(struct.pack(">I", len(header) + len(body)) + header + body)
        return number

    def answer(self):
        """The next final response: MessageId, status, and what is behind its header."""
        while True:
            frame = self.receive(struct.unpack(">I", self.receive(4))[0])
            status, = struct.unpack("<I", frame[8:12])
            self.credits += struct.unpack("<H", frame[14:16])[0]
            self.reply_tree, self.session = struct.unpack("<IQ", frame[36:48])
            if status == PENDING:
                self.interim += 1
            else:
                return struct.unpack("<Q", frame[24:32])[0], status, frame[64:]

    def exchange(self, command, body, charge=1):
        """Sends a request; returns the status and the response behind its header."""
        self.send(command, body, charge)
        return self.answer()[1:]

    def receive(self, count):
        data = bytearray()
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise ConnectionError("the server closed the connection")
            data += part
        return bytes(data)

    def call(self, command, body, charge=1):
        status, reply = self.exchange(command, body, charge)
        if status != OK:
            raise SmbError(status)
        return reply

    def create(self, path, disposition=OVERWRITE_IF, access=0x0012019F, options=0, contexts=(), oplock=0):
        """Opens or makes a file; 0x00010000 in `access` is DELETE, 1 in `options` a directory. `contexts`: tags and data; with
        RqLs among them a lease is asked for."""
        name = path.replace("/", "\\").encode("utf-16le")
        oplock = 0xFF if any(tag == b"RqLs" for tag, _ in contexts) else oplock
        tail = name + bytes(-len(name) % 8 if contexts else not name)
        start, chain = 120 + len(tail), b""
        for n, (tag, data) in enumerate(contexts):
            one = struct.pack("<HHHHI4s4x", 16, 4, 0, 24 if data else 0, len(data), tag) + data
            last = n + 1 == len(contexts)
            one += bytes(0 if last else -(len(one) + 4) % 8)
            chain += struct.pack("<I", 0 if last else len(one) + 4) + one
        body = struct.pack("<HBBIQQIIIIIHHII", 57, 0, oplock, 2, 0, 0, access, 0x80, 7, disposition, options, 120, len(name), start if chain else 0, len(chain))
        reply = self.call(CREATE, body + tail + chain)
        file = File(self, reply[64:80])
        file.action, = struct.unpack("<I", reply[4:8])
        at, length = struct.unpack("<II", reply[80:88])
        at -= 64
        while length:
            following, tag_at, _, _, data_at, count = struct.unpack("<IHHHHI", reply[at:at + 16])
            file.contexts[reply[at + tag_at:at + tag_at + 4]] = reply[at + data_at:at + data_at + count]
            if not following:
                break
            at += following
        return file


class File:
    """An open file."""

    def __init__(self, client, file_id):
        self.client, self.id, self.contexts = client, file_id, {}

    def write(self, offset, data):
        for at in range(0, len(data), PIECE):
            part = data[at:at + PIECE]
            self.client.call(WRITE, self.write_body(offset + at, part), (len(part) - 1) // 65536 + 1)

    def write_body(self, offset, part):
        return struct.pack("<HHIQ16sIIHHI", 49, 112, len(part), offset, self.id, 0, 0, 0, 0, 0) + part

    def write_parallel(self, pieces):
        """Writes (offset, data) of at most 1 MiB in that order, as many at once as the server's credits allow; returns how many."""
        waiting, most = set(), 0

        def one_answer():
            number, status, _ = self.client.answer()
            waiting.remove(number)
            if status != OK:
                raise SmbError(status)
        for offset, part in pieces:
            charge = (len(part) - 1) // 65536 + 1
            while waiting and self.client.credits < charge:
                one_answer()
            waiting.add(self.client.send(WRITE, self.write_body(offset, part), charge))
            most = max(most, len(waiting))
        while waiting:
            one_answer()
        return most

    def read(self, offset, length):
        body = struct.pack("<HBBIQ16sIIIHHB", 49, 0, 0, length, offset, self.id, 0, 0, 0, 0, 0, 0)
        reply = self.client.call(READ, body, (length - 1) // 65536 + 1)
        start, count = reply[2] - 64, struct.unpack("<I", reply[4:8])[0]
        return reply[start:start + count]

    def set_info(self, kind, data, what=1, additional=0):
        self.client.call(SET_INFO, struct.pack("<HBBIHHI16s", 33, what, kind, len(data), 96, 0, additional, self.id) + data)

    def query(self, kind, what=1, additional=0):
        """`what`: 1 a file's information, 2 the volume's, 3 the security descriptor (MS-SMB2 2.2.37)."""
        body = struct.pack("<HBBIHHIII16s", 41, what, kind, 65536, 0, 0, 0, additional, 0, self.id)
        reply = self.client.call(QUERY_INFO, body)
        offset, count = struct.unpack("<HI", reply[2:8])
        return reply[offset - 64:offset - 64 + count]

    def set_end(self, size):
        self.set_info(20, struct.pack("<Q", size))

    def set_times(self, *times):
        """Creation, access, write, change: FILETIMEs; 0, -1 and -2 have their meanings of MS-FSCC 2.4.7."""
        self.set_info(4, struct.pack("<4qII", *times, 0, 0))

    def rename(self, path, replace=True):
        name = path.replace("/", "\\").encode("utf-16le")
        self.set_info(10, struct.pack("<B7xQI", replace, 0, len(name)) + name)

    def delete(self):
        self.set_info(13, b"\1")

    def fsctl(self, code, data, answer=65536):
        body = struct.pack("<HHI16sIIIIIIII", 57, 0, code, self.id, 120, len(data), 0, 0, 0, answer, 1, 0) + data
        reply = self.client.call(IOCTL, body)
        offset, count = struct.unpack("<II", reply[32:40])
        return reply[offset - 64:offset - 64 + count]

    def allocated(self, offset, length):
        reply = self.fsctl(QUERY_ALLOCATED_RANGES, struct.pack("<QQ", offset, length))
        return list(struct.iter_unpack("<QQ", reply))

    def flush(self):
        self.client.call(FLUSH, struct.pack("<HHI16s", 24, 0, 0, self.id))

    def close(self, post_query=False):
        """With `post_query`: the four times, allocation, end of file, attributes (MS-SMB2 2.2.16)."""
        reply = self.client.call(CLOSE, struct.pack("<HHI16s", 24, int(post_query), 0, self.id))
        return struct.unpack("<4Q2QI", reply[8:60]) if post_query else None


if __name__ == "__main__":
    assert md4(b"abc").hex() == "a448017aaf21d8525fc10ae87aa6729d"  # RFC 1320, A.5
