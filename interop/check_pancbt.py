"""`importfs pancbt` on images as qemu-img makes and compares them: create, verify, apply, from images and from changed areas."""
import json
import random
import subprocess

import lab

BLOCK = 64 << 10
SIZE = 24 * (1 << 20) + 512 * 3


def main():
    lab.need("qemu-img")
    work, rng = lab.workdir("pancbt"), random.Random(4450)
    base = bytearray(rng.randbytes(SIZE))
    new, areas = bytearray(base), []
    for offset in range(0, SIZE - BLOCK, BLOCK):
        if rng.random() < 0.2:
            new[offset:offset + BLOCK] = bytes(BLOCK) if rng.random() < 0.5 else rng.randbytes(BLOCK)
            areas.append({"start": offset, "length": BLOCK})
    (work / "base").write_bytes(base)
    (work / "new").write_bytes(new)
    (work / "areas.json").write_text(json.dumps({"startOffset": 0, "length": SIZE, "changedArea": areas}))

    def importfs(*arguments):
        return subprocess.run([lab.binary(), "pancbt", *map(str, arguments)], capture_output=True, text=True)

    for name, source in (("images", ("--base", work / "base")), ("areas", ("--areas", work / "areas.json"))):
        file, image = work / f"{name}.pancbt", work / f"{name}.img"
        made = importfs("create", *source, "--new", work / "new", "--output", file)
        lab.check(made.returncode == 0, f"{name}: create {made.stderr}")
        info = json.loads(importfs("info", "--json", file).stdout)
        lab.check(info["disk_size"] == SIZE and info["zero_bytes"] > 0, f"{name}: info {info}")
        lab.check(importfs("verify", file).returncode == 0, f"{name}: verify")
        image.write_bytes(base)
        lab.check(importfs("apply", file, "--to", image).returncode == 0, f"{name}: apply")
        same = subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", image, work / "new"], capture_output=True)
        lab.check(same.returncode == 0, f"{name}: the merged image is the new one")
        lab.check(image.stat().st_blocks * 512 < SIZE, f"{name}: zeroed blocks are holes")
        damaged = bytearray(file.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (work / "damaged").write_bytes(damaged)
        image.write_bytes(base)
        refused = importfs("apply", work / "damaged", "--to", image)
        lab.check(refused.returncode == 1 and "corrupt" in refused.stderr, f"{name}: a damaged file is refused: {refused.stderr}")
        lab.check(image.read_bytes() == base, f"{name}: and changes nothing")
    lab.check(importfs("create", "--new", work / "new", "--output", work / "x").returncode == 2, "usage is exit code 2")
    lab.finish()


if __name__ == "__main__":
    main()
