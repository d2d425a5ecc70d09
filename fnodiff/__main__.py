from fnodiff.cli import main

raise SystemExit(main())
