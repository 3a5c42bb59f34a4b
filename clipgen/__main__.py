import sys

from clipgen.cli import main

sys.exit(main())
