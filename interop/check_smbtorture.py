"""smbtorture's suites of the main job, against the directory share: nothing that passed before may fail."""
import smbtorture

if __name__ == "__main__":
    smbtorture.main([])
