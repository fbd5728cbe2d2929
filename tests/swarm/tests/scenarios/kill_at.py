"""kill_at.py WORDS COMMAND…
    Runs the command and kills it (-9) as soon as it says on stderr that the step with these words (a
    regular expression) begins. Where it ends before, exits 1 and tells what it said.
"""
import re
import subprocess
import sys

words, command = re.compile(r"\[\d+/\d+\] " + sys.argv[1]), sys.argv[2:]
process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.PIPE, text=True)
said = []
for line in process.stderr:
    said.append(line)
    if words.match(line):
        process.kill()
        process.wait()
        sys.exit(0)
print(f"{command} ended with {process.wait()} before {sys.argv[1]!r}:\n{''.join(said)}")
sys.exit(1)
